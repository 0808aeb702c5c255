"use strict";
// Says the page's own words in Japanese where the browser asks for it. Elements with data-say hold such words; whatever
// a user wrote is filled in unchanged. {} is any text, {w} a word without spaces; {0} is the first of them.
const say = (() => {
  const JAPANESE = {
    "Skip to the items": "曲へ移動",
    "Skip to the songs": "曲へ移動",
    "Items": "曲",
    "Songs": "曲",
    "Levels": "レベル",
    "Level {w}": "レベル {0}",
    "Item {w}": "曲 {0}",
    "Song {w}": "曲 {0}",
    "{w} item[s], decoded from level {w}, the finest: this is the finished sound.": "{0} 曲。最も細かいレベル {1} から復号した、完成した音です。",
    "{w} item[s], decoded from level {w}, a draft: level 0 is the finished sound.": "{0} 曲。レベル {1} から復号した下書きです。完成した音はレベル 0 です。",
    "{w} item[s]": "{0} 曲",
    "{w} song[s], made by several processes.": "{0} 曲。複数のプロセスで作りました。",
    "{w} song[s] through the VQ-VAE of {} and back, at {w} Hz.": "{0} 曲を {1} の VQ-VAE で符号にし、{2} Hz で音に戻しました。",
    "Playback": "再生",
    "Play all": "すべて再生",
    "Stop": "停止",
    "Previous": "前の曲",
    "Next": "次の曲",
    "Favourite: {}": "お気に入り：{0}",
    "Download {w} of {}, original": "{1}（原曲）の {0} をダウンロード",
    "Download {w} of {}, level {w}": "{1}（レベル {2}）の {0} をダウンロード",
    "Download {w} of {}": "{1} の {0} をダウンロード",
    "Download {w}": "{0} をダウンロード",
    "Lyrics, waveform and settings of {}": "{0} の歌詞、波形、設定",
    "Position in {}": "{0} の再生位置",
    "Player of {}, original": "{0}（原曲）のプレーヤー",
    "Player of {}, level {w}": "{0}（レベル {1}）のプレーヤー",
    "Player of {}": "{0} のプレーヤー",
    "End of the prompt": "プロンプトの終わり",
    "Made without labels.": "ラベルなしで作りました。",
    "Artist": "アーティスト",
    "Genre": "ジャンル",
    "Part of the song": "曲の中の位置",
    "{w} to {w} of {w}": "{0}～{1}（全体は {2}）",
    "{w} of {w} ({w})": "{1} 中 {0}（{2}）",
    "{w} of {w}": "{1} 中 {0}",
    "Lyrics": "歌詞",
    "Lyrics of {}": "{0} の歌詞",
    "Copy": "コピー",
    "Copy: lyrics of {}": "コピー：{0} の歌詞",
    "Copy: command": "コピー：コマンド",
    "Copied": "コピーしました",
    "Selected: copy it with the keyboard": "選択しました。キーボードでコピーしてください",
    "There is no alignment for this item, so the lyrics do not light up.": "この曲にはアライメントがないので、歌詞は光りません。",
    "The alignment does not fit these lyrics, so they do not light up.": "アライメントがこの歌詞に合わないので、歌詞は光りません。",
    "The music attends to none of these lyrics, so they do not light up.": "音楽がこの歌詞のどこにも注意を向けていないので、歌詞は光りません。",
    "Alignment": "アライメント",
    "Alignment of {}: how much the music attends to each character of the lyrics. Time runs to the right, the lyrics run downwards.": "{0} のアライメント：音楽が歌詞の各文字に向ける注意の強さ。右へ時間、下へ歌詞が進みます。",
    "Time runs to the right, the lyrics downwards. Stronger colour is more attention; the line is the letter that lights up.": "右へ時間、下へ歌詞が進みます。色が濃いほど注意が強く、線は光る文字です。",
    "Timed lyrics (LRC) of {}": "時刻付きの歌詞 (LRC)：{0}",
    "Timed lyrics (LRC)": "時刻付きの歌詞 (LRC)",
    "Settings": "設定",
    "Where a setting has several values, the first is that of level 0, the finest.": "値が複数ある設定では、最初の値が最も細かいレベル 0 のものです。",
    "Command": "コマンド",
    "It makes these songs again; of files elsewhere only the name is shown.": "同じ曲をもう一度作ります。別の場所にあるファイルは名前だけを示します。",
    "Model": "モデル",
    "Mode": "モード",
    "Seed": "シード",
    "Temperature": "温度",
    "Top k": "Top-k（候補の数）",
    "Top p": "Top-p（候補の確率）",
    "Hop (share of the context)": "ホップ（コンテキストに対する割合）",
    "Length (s)": "長さ（秒）",
    "Imagined whole song (s)": "想定した曲全体（秒）",
    "Prompt length (s)": "プロンプトの長さ（秒）",
    "Prompt": "プロンプト",
    "Codes from": "符号の出どころ",
    "Sample rate (Hz)": "サンプリング周波数（Hz）",
    "Number format": "数値形式",
    "Engine": "エンジン",
    "Codes per level": "レベルごとの符号の数",
    "Sample rate": "サンプリング周波数",
    "Trained for": "学習",
    "{w} step[s]": "{0} ステップ",
    "Figures over all {w} songs": "全 {0} 曲の数値",
    "Figures": "数値",
    "Level": "レベル",
    "Samples per code": "符号あたりのサンプル数",
    "Codes per second": "毎秒の符号数",
    "Bit rate (kbit/s)": "ビットレート（kbit/s）",
    "Codebook use": "コードブックの使用率",
    "Entropy (bits per code)": "エントロピー（符号あたりのビット数）",
    "Entropy rate (kbit/s)": "エントロピーレート（kbit/s）",
    "Spectral convergence (dB)": "スペクトル収束（dB）",
    "Spectral convergence": "スペクトル収束",
    "Bit rate": "ビットレート",
    "Entropy": "エントロピー",
    "{w} bits per code": "符号あたり {0} ビット",
    "silent": "無音",
    "perfect": "完全",
    "Original": "原曲",
    "as the model hears it: mono, {w} Hz": "モデルが聴く音：モノラル、{0} Hz",
    "{w} samples per code, the finest": "符号あたり {0} サンプル、最も細かいレベル",
    "{w} samples per code": "符号あたり {0} サンプル",
    "{w} ({w} s), from {w} on": "{0}（{1} 秒）、{2} から",
    "{w} ({w} s)": "{0}（{1} 秒）",
    "Spectrogram of {}, original: {w} s to the right, frequencies up to {} upwards.": "{0}（原曲）のスペクトログラム：右へ {1} 秒、上へ {2} まで。",
    "Spectrogram of {}, level {w}: {w} s to the right, frequencies up to {} upwards.": "{0}（レベル {1}）のスペクトログラム：右へ {2} 秒、上へ {3} まで。",
    "Start another version while one plays, and it continues from the same place. Within a song the keys 1 to {w} do the same; a click into a spectrogram goes there.": "再生中に別の版を始めると、同じ位置から続きます。曲の中ではキー 1～{0} でも切り替えられます。スペクトログラムをクリックすると、その位置へ移ります。",
    "About the figures": "数値について",
    "Spectral convergence is the norm of the error of the spectrum over the norm of the original's spectrum, in dB: lower is better, and 0 dB is as bad as silence. The bit rate writes each code with all its bits; the entropy rate needs only as many as the frequencies of the codes ask for. In the spectrograms time goes to the right and mel frequency upwards; brighter is louder, over a range of 80 dB that is the same for all versions of a song.": "スペクトル収束は、スペクトルの誤差のノルムを原曲のスペクトルのノルムで割った値（dB）です。低いほどよく、0 dB は無音と同じ悪さです。ビットレートは各符号を全ビットで書いたときの値、エントロピーレートは符号の出現頻度から必要になる分だけの値です。スペクトログラムは右へ時間、上へメル周波数が進み、明るいほど大きな音です。範囲は 80 dB で、一つの曲のすべての版に共通です。",
  };
  const languages = navigator.languages || [navigator.language];
  if (!/^ja\b/i.test(languages.find((language) => /^(en|ja)\b/i.test(language)))) {
    return (english, ...values) => english.replace(/\{w?\}/g, () => values.shift());
  }

  const HOLES = { "{}": "([^]*)", "{w}": "(\\S+)", "[s]": "s?" };
  const patterns = Object.entries(JAPANESE).map(([english, japanese]) => [
    new RegExp(`^${english.split(/(\{w?\}|\[s\])/).map((part) => HOLES[part] ?? part.replace(/[.()]/g, "\\$&")).join("")}$`),
    japanese,
  ]);
  const fill = (japanese, values) => japanese.replace(/\{(\d)\}/g, (_, i) => values[i]);
  const translate = (english, named) => {
    for (const [pattern, japanese] of patterns) {
      const found = english.match(pattern);
      if (found) return fill(japanese, found.slice(1).map((value) => named(value)));
    }
    return english;
  };

  document.documentElement.lang = "ja";
  const headings = new Map();  // item -> its heading in English, if that is ours and not a user's
  for (const element of document.querySelectorAll("[data-say]")) {
    const item = element.closest(".item");
    if (element.tagName === "H2" && item) headings.set(item, element.textContent);
    const named = (value) => value === headings.get(item) ? item.querySelector("h2").textContent : value;
    for (const name of ["aria-label", "aria-valuetext", "alt", "data-column"]) {
      const english = element.getAttribute(name);
      if (english) element.setAttribute(name, translate(english, named));
    }
    if (!element.childElementCount && element.textContent) {
      element.textContent = translate(element.textContent, (value) => value);
    }
  }
  return (english, ...values) => fill(JAPANESE[english] ?? english, values);
})();
