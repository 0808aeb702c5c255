"use strict";
// The buttons of a page with songs: play all, next and previous, favourites kept in this browser, and copying.
(() => {
  const items = [...document.querySelectorAll(".item")];
  const players = items.map((item) => item.querySelector("audio"));
  const bar = document.querySelector(".bar");
  let current = 0;  // number of the song that was started last
  let all = false;  // whether the next song follows by itself

  const show = () => {
    if (bar) bar.querySelector(".all").textContent = say(all && !players[current].paused ? "Stop" : "Play all");
  };
  const play = (i) => {
    current = i;
    players[i].play().catch((error) => {
      if (all && error.name === "NotSupportedError") follow(i);  // there is no such file yet
    });
  };
  const start = (i) => {
    players[i].currentTime = 0;
    items[i].scrollIntoView({ block: "nearest" });
    play(i);
  };
  const follow = (i) => {
    if (all && i + 1 < items.length) start(i + 1); else all = false;
    show();
  };

  // Events come late on a busy machine: each may tell of a state that is over, and then must change nothing.
  players.forEach((player, i) => {
    player.addEventListener("play", () => {
      if (player.paused) return;
      current = i;
      for (const other of players) if (other !== player) other.pause();
      show();
    });
    player.addEventListener("pause", () => {
      if (i === current && player.paused && !player.ended) all = false;
      show();
    });
    player.addEventListener("ended", () => { if (i === current) follow(i); });
  });

  if (bar) {
    const step = (by) => start((current + by + items.length) % items.length);
    bar.querySelector(".previous").addEventListener("click", () => step(-1));
    bar.querySelector(".next").addEventListener("click", () => step(1));
    bar.querySelector(".all").addEventListener("click", () => {
      const player = players[current];
      all = !(all && !player.paused);
      if (!all) player.pause(); else if (player.ended || !player.currentTime) start(player.ended ? 0 : current); else play(current);
      show();
    });
  }

  // Favourites are songs, not places: a song has the same sign on the pages of all its levels.
  const KEY = "jukebox-favourites";
  let favourites = new Set();
  const load = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(KEY) || "[]");
      if (Array.isArray(kept)) favourites = new Set(kept);
    } catch { /* this browser keeps nothing: they last as long as the page */ }
    items.forEach((item) => {
      const on = favourites.has(item.dataset.song);
      item.querySelector(".favourite").setAttribute("aria-pressed", on);
      document.querySelector(`nav a[href="#${item.id}"]`)?.classList.toggle("liked", on);
    });
  };
  for (const item of items) item.querySelector(".favourite").addEventListener("click", () => {
    load();
    if (!favourites.delete(item.dataset.song)) favourites.add(item.dataset.song);
    try {
      localStorage.setItem(KEY, JSON.stringify([...favourites]));
    } catch { /* as above */ }
    load();
  });
  addEventListener("storage", load);  // another page has changed them
  load();

  for (const button of document.querySelectorAll(".copy")) button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy), said = button.previousElementSibling;
    const lines = [...source.querySelectorAll("p")].map((line) => line.textContent);
    try {
      await navigator.clipboard.writeText(lines.length ? lines.join("\n") : source.textContent);
      said.textContent = say("Copied");
    } catch {
      getSelection().selectAllChildren(source);
      said.textContent = say("Selected: copy it with the keyboard");
    }
    setTimeout(() => { said.textContent = ""; }, 3000);
  });

  for (const each of document.querySelectorAll(".bar, .favourite, .copy")) each.hidden = false;
})();
