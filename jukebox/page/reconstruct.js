"use strict";
// Compares the versions of each song: all its players share one place, and one that is started goes on where another
// was playing.
(() => {
  const APART = 0.05;  // seconds by which two places differ

  const setUp = (item) => {
    const seconds = Number(item.dataset.seconds);
    const versions = [...item.querySelectorAll(".version")];
    const players = versions.map((version) => version.querySelector("audio"));
    let place = 0;  // seconds, of all versions of this song
    let current = null;  // the player that was started last
    let following = false;  // whether the place is read at every frame
    const moved = new Map();  // player -> the place where this script put it, which is no news when its event comes

    const show = () => {
      item.style.setProperty("--at", `${seconds ? 100 * Math.min(place / seconds, 1) : 0}%`);
      versions.forEach((version, i) => version.classList.toggle("on", players[i] === current && !current.paused));
    };

    const follow = () => {
      following = Boolean(current) && !current.paused;
      if (!following) return;
      if (!current.seeking) place = current.currentTime;
      show();
      requestAnimationFrame(follow);
    };

    const move = (player) => {
      player.currentTime = place;
      moved.set(player, player.currentTime);
    };

    const go = (time) => {
      place = Math.min(Math.max(time, 0), seconds);
      if (current) move(current);  // the others get there when they are started
      show();
    };

    // Makes a player the one that is heard, from where the last one was.
    const take = (player) => {
      if (player !== current && current && !current.seeking) place = current.currentTime;
      if (place > seconds - APART) place = 0;  // the last one had come to its end
      current = player;
      if (Math.abs(player.currentTime - place) > APART) move(player);
      for (const other of document.querySelectorAll("audio")) if (other !== player) other.pause();
      show();
    };

    // Events come late on a busy machine: each may tell of a state that is over, and then must change nothing.
    for (const player of players) {
      player.addEventListener("play", () => {
        if (player.paused) return;
        take(player);
        if (!following) follow();
      });
      player.addEventListener("seeking", () => {
        if (player.currentTime === moved.get(player)) return;
        if (player === current || !current || current.paused) {
          current = player;  // the one that paused before has no say in the place any more
          place = player.currentTime;
        } else if (Math.abs(player.currentTime - place) > APART) {
          go(player.currentTime);  // the player's own slider was moved while another one plays
        }
        show();
      });
      for (const event of ["pause", "ended"]) player.addEventListener(event, () => {
        if (player === current && player.paused) place = player.currentTime;
        show();
      });
    }

    for (const picture of item.querySelectorAll(".picture")) picture.addEventListener("click", (event) => {
      const box = picture.getBoundingClientRect();
      go(seconds * (event.clientX - box.left) / box.width);
    });

    // Keys count inside of this song alone, so that they get in nobody's way elsewhere.
    item.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.altKey || event.metaKey) return;
      const player = players[Number(event.key) - 1];
      if (!player) return;
      event.preventDefault();
      player.focus();
      take(player);
      player.play().catch(() => {});  // paused again before it began: nothing to tell
    });
    show();
  };

  for (const item of document.querySelectorAll(".item")) setUp(item);
  document.getElementById("keys").hidden = false;
})();
