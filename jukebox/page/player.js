"use strict";
// Plays each item: the waveform is a slider, and the lyrics follow the audio by the times in the data block, where
// changes = [[seconds, character], ...] says from when on which character is lit (-1: none).
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const clock = (seconds) => {
    const t = Math.floor(seconds + 0.5);
    return `${Math.floor(t / 60)}:${String(t % 60).padStart(2, "0")}`;
  };

  // The last change at or before a time: its index, -1 before the first.
  const latest = (changes, time) => {
    let low = 0, high = changes.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (changes[middle][0] <= time) low = middle + 1; else high = middle;
    }
    return low - 1;
  };

  // Characters as Python counts them: code points, not the 16-bit units of a JavaScript string.
  const readLines = (panel) => [...panel.querySelectorAll("p")].map((element) => {
    const characters = [...element.textContent];
    const start = Number(element.dataset.start);
    return { element, characters, start, end: start + characters.length };
  });

  const piece = (name, characters) => {
    const span = document.createElement("span");
    span.className = name;
    span.textContent = characters.join("");
    return span;
  };

  // Shows which characters were sung and which one is lit. Only the line in the middle of being sung is cut into pieces,
  // so that a screen reader meets whole lines.
  const paint = (line, lit, reached) => {
    const done = Math.min(Math.max(reached - line.start, 0), line.characters.length);
    const on = lit >= line.start && lit < line.end ? lit - line.start : -1;
    const state = `${done},${on}`;
    if (line.state === state) return;
    line.state = state;
    const whole = on < 0 && (done === 0 || done === line.characters.length);
    line.element.classList.toggle("sung", whole && done > 0);
    if (whole) {
      line.element.textContent = line.characters.join("");
    } else if (on < 0) {
      line.element.replaceChildren(piece("sung", line.characters.slice(0, done)), line.characters.slice(done).join(""));
    } else {
      line.element.replaceChildren(
        piece("sung", line.characters.slice(0, on)),
        piece("now", line.characters.slice(on, on + 1)),
        line.characters.slice(on + 1).join(""));
    }
  };

  const setUp = (item, changes) => {
    const audio = item.querySelector("audio");
    const seek = item.querySelector(".seek");
    const panel = item.querySelector(".timed");
    const lines = panel ? readLines(panel) : [];
    const seconds = Number(item.dataset.seconds);
    let shown = null;  // index of the change on show
    let current = -1;  // line being sung, kept in view below the one before it
    let top = 0;  // of the panel's view
    let spoken = "";

    const light = (time) => {
      const index = latest(changes, time);
      if (index === shown) return;
      shown = index;
      const lit = index < 0 ? -1 : changes[index][1];
      const last = lit >= 0 || index < 1 ? lit : changes[index - 1][1];
      panel.dataset.lit = lit;
      for (const line of lines) paint(line, lit, last + 1);
      const line = lines.findIndex((each) => last >= each.start && last <= each.end);
      const before = top;
      if (line !== current) top = line > 0 ? lines[line - 1].element.offsetTop : 0;
      current = line;
      const now = panel.querySelector(".now");  // in a long line it may lie further down
      if (now && (now.offsetTop < top || now.offsetTop + now.offsetHeight > top + panel.clientHeight)) {
        top = now.offsetTop - panel.clientHeight / 3;
      }
      if (top !== before) panel.scrollTop = top;
    };

    const show = () => {
      const time = Math.min(audio.currentTime, seconds);
      seek.value = time;
      item.style.setProperty("--at", `${seconds ? 100 * time / seconds : 0}%`);
      if (clock(time) !== spoken) {
        spoken = clock(time);
        seek.setAttribute("aria-valuetext", say("{w} of {w}", spoken, clock(seconds)));
      }
      if (panel) light(time);
    };

    const follow = () => {
      show();
      if (!audio.paused && !audio.ended) requestAnimationFrame(follow);
    };

    const go = (time) => {
      audio.currentTime = Math.min(Math.max(time, 0), seconds);
      show();
    };

    audio.addEventListener("play", () => {
      if (!audio.paused) follow();  // else the event came late: another one plays by now
    });
    for (const event of ["timeupdate", "seeking", "seeked", "pause", "ended"]) audio.addEventListener(event, show);

    seek.addEventListener("input", () => go(Number(seek.value)));
    const steps = {
      ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1, PageDown: -10, PageUp: 10, Home: -Infinity, End: Infinity,
    };
    seek.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      if (event.key === " ") {
        if (audio.paused) audio.play().catch(() => {}); else audio.pause();
      } else if (event.key in steps) {
        go(audio.currentTime + steps[event.key]);
      } else {
        return;
      }
      event.preventDefault();
    });

    // A click on a line goes to where it is sung; the slider does the same for the keyboard.
    for (const line of lines) {
      const change = changes.find(([, character]) => character >= line.start && character < line.end);
      if (!change) continue;
      line.element.dataset.time = change[0];
      line.element.addEventListener("click", () => {
        if (getSelection().isCollapsed) go(change[0]);  // not while text is being selected
      });
    }
    show();
  };

  document.querySelectorAll(".item").forEach((item, i) => setUp(item, data[i].changes));
})();
