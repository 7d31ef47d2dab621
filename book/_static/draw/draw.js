// The page where one draws a digit: the board, what a drawing becomes, and who answers.
"use strict";

window.addEventListener("DOMContentLoaded", () => {
  const root = document.getElementById("draw");
  if (!root) return;

  const SIDE = 28;
  const BOX = 20;
  const BOARD = 280;
  const PEN = 22;
  const STEP = 10;
  const NEIGHBOURS = 8;
  // What a dropped file may ask of a reader's machine: weights, and multiplications an answer.
  const MOST_WEIGHTS = 2 ** 24;
  const MOST_WORK = 1e8;
  const part = (name) => document.getElementById(`draw-${name}`);
  const data = ntklcData;

  // ---- Data.

  const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

  function pictures({ images, each }) {
    const packed = ntklc.inflate(bytesOf(images));
    const size = SIDE * SIDE;
    return Array.from({ length: (2 * packed.length) / size }, (_, k) => {
      const pixels = Float64Array.from({ length: size }, (_, i) => {
        const byte = packed[(k * size + i) >> 1];
        return (i % 2 ? byte & 15 : byte >> 4) / 15;
      });
      return { pixels, label: Math.floor(k / each) };
    });
  }

  const stock = pictures(data.stock);
  const examples = pictures(data.examples);
  const raw = ntklc.inflate(bytesOf(data.mean));
  const mean = new Float32Array(raw.buffer.slice(raw.byteOffset, raw.byteOffset + raw.length));
  // How pixels from 0 to 1 are given to a network.
  const INPUTS = {
    normal: (pixels) => pixels.map((p, i) => (p - mean[i]) / data.scale),
    standard: (pixels) => {
      const [centre, spread] = data.standard;
      return Float32Array.from(pixels, (p) => Math.fround(Math.fround(p) - centre) / spread);
    },
    plain: (pixels) => pixels,
  };

  // ---- From ink to an image as MNIST has them.

  // Averages over boxes of a row of numbers; `at(i)` is the i-th, `size` of them make `made`.
  function averaged(at, size, made) {
    return Array.from({ length: made }, (_, k) => {
      const [from, to] = [(k * size) / made, ((k + 1) * size) / made];
      let sum = 0;
      for (let i = Math.floor(from); i < Math.min(size, Math.ceil(to)); i++) {
        sum += at(i) * (Math.min(to, i + 1) - Math.max(from, i));
      }
      return sum / (to - from);
    });
  }

  // Fitted into 20 x 20, then put so that its centre of mass is the middle of 28 x 28.
  function prepared(ink) {
    let [top, bottom, left, right] = [BOARD, -1, BOARD, -1];
    for (let i = 0; i < BOARD; i++) {
      for (let j = 0; j < BOARD; j++) {
        if (ink[i * BOARD + j] < 0.2) continue;
        top = Math.min(top, i);
        bottom = Math.max(bottom, i);
        left = Math.min(left, j);
        right = Math.max(right, j);
      }
    }
    if (bottom < 0) return null;
    const [height, width] = [bottom - top + 1, right - left + 1];
    const scale = BOX / Math.max(height, width);
    const [h, w] = [height, width].map((side) => Math.max(1, Math.round(side * scale)));
    const narrow = Array.from({ length: height }, (_, i) =>
      averaged((j) => ink[(top + i) * BOARD + left + j], width, w),
    );
    const columns = Array.from({ length: w }, (_, j) => averaged((i) => narrow[i][j], height, h));
    let [mass, down, along] = [0, 0, 0];
    columns.forEach((column, j) =>
      column.forEach((value, i) => {
        mass += value;
        down += i * value;
        along += j * value;
      }),
    );
    const middle = (SIDE - 1) / 2;
    const place = (sum, size) =>
      Math.min(SIDE - size, Math.max(0, Math.round(middle - sum / mass)));
    const [y, x] = [place(down, h), place(along, w)];
    const pixels = new Float64Array(SIDE * SIDE);
    columns.forEach((column, j) =>
      column.forEach((value, i) => (pixels[(y + i) * SIDE + x + j] = Math.min(1, value))),
    );
    return pixels;
  }

  function show(canvas, pixels) {
    const context = canvas.getContext("2d");
    const image = context.createImageData(SIDE, SIDE);
    pixels.forEach((p, i) => image.data.set([0, 0, 0, Math.round(255 * p)], 4 * i));
    context.putImageData(image, 0, 0);
  }

  function smallPicture(pixels, label) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", label);
    show(canvas, pixels);
    return canvas;
  }

  // ---- Who answers.

  const percent = (share) => `${(100 * share).toFixed(2)}%`;
  const counted = (n) => n.toLocaleString("en");

  function opened(about, input) {
    const network = ntklc.read(bytesOf(about.file), { most: MOST_WEIGHTS });
    return { ...about, network, input };
  }

  const players = {
    trained: opened(data.trained, "standard"),
    random: opened(data.random, "normal"),
  };
  let player = players.trained;
  const twelve = [];

  const said = (network, scores) => {
    if (network.classes === null) return null;
    return network.classes[ntklc.largest(scores.length === 1 ? [0, scores[0]] : scores)];
  };

  // ---- The board.

  const board = part("board");
  const context = board.getContext("2d", { willReadFrequently: true });
  const pen = part("pen");
  const state = { pixels: null, shown: false, at: [BOARD / 2, BOARD / 2], down: false, example: 0 };

  function clear() {
    context.clearRect(0, 0, BOARD, BOARD);
    state.shown = false;
    state.pixels = null;
  }

  // What stands on the board for a start goes when the first line is drawn.
  function line(from, to) {
    if (state.shown) clear();
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = PEN;
    context.strokeStyle = "black";
    context.beginPath();
    context.moveTo(...from);
    context.lineTo(...to);
    context.stroke();
  }

  function look() {
    if (state.shown) return;
    const { data: rgba } = context.getImageData(0, 0, BOARD, BOARD);
    const ink = Float32Array.from({ length: BOARD * BOARD }, (_, i) => rgba[4 * i + 3] / 255);
    state.pixels = prepared(ink);
  }

  function showExample() {
    const { pixels } = examples[(state.example * 7) % examples.length];
    state.example += 1;
    clear();
    context.imageSmoothingEnabled = false;
    context.drawImage(smallPicture(pixels, ""), 0, 0, BOARD, BOARD);
    state.shown = true;
    state.pixels = pixels;
    answer(true);
  }

  // ---- The answer.

  function row(cells, head = 1) {
    const made = document.createElement("tr");
    cells.forEach((content, i) => {
      const cell = document.createElement(i < head ? "th" : "td");
      if (i < head) cell.scope = "row";
      cell.append(content);
      made.append(cell);
    });
    return made;
  }

  function showScores(network, scores) {
    // A file may have any number of outputs: no more are shown than one can look at.
    const few = Array.from(scores.slice(0, 20));
    const [low, high] = [Math.min(0, ...few), Math.max(...few)];
    const best = ntklc.largest(scores);
    const rows = few.map((score, k) => {
      const bar = document.createElement("div");
      bar.className = "draw-bar";
      bar.style.width = `${(100 * (score - low)) / (high - low || 1)}%`;
      const name = network.classes ? network.classes[k] : k;
      const made = row([String(name ?? k), bar, score.toFixed(2).replace("-", "−")]);
      made.classList.toggle("draw-best", k === best && network.classes !== null);
      return made;
    });
    part("scores").replaceChildren(...rows);
  }

  // Features of the training images under the network that answers, a few at a time.
  function compareLater(who) {
    who.features = [];
    const go = () => {
      if (who !== player) return;
      const until = performance.now() + 10;
      while (who.features.length < stock.length && performance.now() < until) {
        const image = stock[who.features.length].pixels;
        who.features.push(unit(who.network.features(INPUTS[who.input](image))));
      }
      if (who.features.length < stock.length) setTimeout(go);
      else showNeighbours();
    };
    setTimeout(go);
  }

  function unit(features) {
    const norm = Math.sqrt(features.reduce((sum, f) => sum + f * f, 0));
    return Float64Array.from(features, (f) => (norm ? f / norm : 0));
  }

  function showNeighbours() {
    const { features } = player;
    const ready = state.pixels && features && features.length === stock.length;
    part("wait").hidden = Boolean(ready);
    if (!ready) {
      part("nearest").replaceChildren();
      return;
    }
    const own = unit(player.network.features(INPUTS[player.input](state.pixels)));
    const found = features.map((other, i) => ({
      kernel: other.reduce((sum, f, k) => sum + f * own[k], 0),
      ...stock[i],
    }));
    found.sort((a, b) => b.kernel - a.kernel);
    const items = found.slice(0, NEIGHBOURS).map(({ kernel, pixels, label }) => {
      const item = document.createElement("li");
      const value = kernel.toFixed(2);
      const note = document.createElement("span");
      note.textContent = value;
      const words = `A training image of a ${label}; the kernel is ${value}`;
      item.append(smallPicture(pixels, words), `${label} `, note);
      return item;
    });
    part("nearest").replaceChildren(...items);
  }

  function showTwelve() {
    if (twelve.length < data.grid.length) return;
    const pixels = state.pixels && INPUTS.normal(state.pixels);
    const answers = twelve.map(({ network }) =>
      pixels ? said(network, network.outputs(pixels)) : null,
    );
    const own = part("digit").textContent;
    const levels = [...new Set(data.grid.map((one) => one.levels))];
    const rows = levels.map((m) => {
      const cells = twelve.flatMap(({ accuracy, size, ...one }, i) => {
        if (one.levels !== m) return [];
        const digit = document.createElement("strong");
        digit.textContent = answers[i] ?? "–";
        digit.classList.toggle("draw-other", String(answers[i]) !== own);
        const note = document.createElement("small");
        note.textContent = percent(accuracy);
        note.title = `${counted(size)} bytes`;
        const cell = document.createElement("span");
        cell.append(digit, " ", note);
        return [cell];
      });
      return row([`${m} levels`, ...cells]);
    });
    part("twelve").replaceChildren(...rows);
    const same = answers.filter((digit) => String(digit) === own).length;
    part("agree").textContent = pixels
      ? `${same} of the ${answers.length} answer as the network above does.`
      : "";
  }

  function answer(finished) {
    const start = performance.now();
    look();
    show(part("seen"), state.pixels ?? new Float64Array(SIDE * SIDE));
    if (state.pixels === null) {
      part("digit").textContent = "–";
      part("scores").replaceChildren();
      part("said").textContent = "The board is empty.";
    } else {
      const { network, input } = player;
      const scores = network.outputs(INPUTS[input](state.pixels));
      const digit = said(network, scores);
      part("digit").textContent = digit ?? "–";
      showScores(network, scores);
      const words = digit === null ? "The network gives values" : `The network answers ${digit}`;
      if (finished) part("said").textContent = `${words}.`;
    }
    showNeighbours();
    showTwelve();
    const took = performance.now() - start;
    root.dataset.ms = took;
    part("time").textContent = state.pixels ? `${took.toFixed(1)} ms, with all that is below` : "";
  }

  let waiting = false;
  function soon() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => {
      waiting = false;
      answer(false);
    });
  }

  // ---- Mouse, finger, pen.

  function placeOf(event) {
    const box = board.getBoundingClientRect();
    return [
      ((event.clientX - box.left - board.clientLeft) * BOARD) / board.clientWidth,
      ((event.clientY - box.top - board.clientTop) * BOARD) / board.clientHeight,
    ];
  }

  let drawing = null;
  board.addEventListener("pointerdown", (event) => {
    if (event.button !== 0 || drawing !== null) return;
    drawing = event.pointerId;
    board.setPointerCapture(drawing);
    state.at = placeOf(event);
    line(state.at, state.at);
    soon();
  });
  board.addEventListener("pointermove", (event) => {
    if (event.pointerId !== drawing) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const each of events.length ? events : [event]) {
      const to = placeOf(each);
      line(state.at, to);
      state.at = to;
    }
    soon();
  });
  for (const end of ["pointerup", "pointercancel"]) {
    board.addEventListener(end, (event) => {
      if (event.pointerId !== drawing) return;
      drawing = null;
      answer(true);
    });
  }

  // ---- Keyboard: arrows move the pen, space sets it down and lifts it.

  const WAYS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };

  function showPen() {
    pen.style.left = `${(100 * state.at[0]) / BOARD}%`;
    pen.style.top = `${(100 * state.at[1]) / BOARD}%`;
    pen.classList.toggle("draw-down", state.down);
  }

  function setPen(down) {
    if (down === state.down) return;
    state.down = down;
    part("pen-said").textContent = down ? "The pen is down." : "The pen is up.";
    if (down) line(state.at, state.at);
    showPen();
    answer(true);
  }

  board.addEventListener("keydown", (event) => {
    const way = WAYS[event.key];
    if (way) {
      const far = event.shiftKey ? 3 * STEP : STEP;
      const to = state.at.map((x, i) => Math.min(BOARD - STEP, Math.max(STEP, x + far * way[i])));
      if (state.down) {
        line(state.at, to);
        soon();
      }
      state.at = to;
      showPen();
    } else if (event.key === " " || event.key === "Enter") {
      setPen(!state.down);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      setPen(false);
      clear();
      answer(true);
    } else return;
    event.preventDefault();
  });
  board.addEventListener("focus", showPen);
  board.addEventListener("blur", () => setPen(false));

  part("clear").addEventListener("click", () => {
    setPen(false);
    clear();
    answer(true);
  });
  part("example").addEventListener("click", showExample);

  // ---- The network that answers, and files.

  const complain = (text) => {
    part("error").textContent = text;
  };

  function choose(name) {
    player = players[name];
    part("given").hidden = name !== "own";
    if (!player.features) compareLater(player);
    answer(true);
  }

  for (const choice of root.querySelectorAll("input[name=draw-network]")) {
    choice.addEventListener("change", () => choose(choice.value));
  }
  part("input").addEventListener("change", (event) => {
    player.input = event.target.value;
    compareLater(player);
    answer(true);
  });

  function usual(network) {
    if (network.scales) return "plain";
    return network.shape.length > 1 ? "standard" : "normal";
  }

  async function take(file) {
    complain("");
    try {
      const bytes = new Uint8Array(await file.arrayBuffer());
      const network = ntklc.read(bytes, { most: MOST_WEIGHTS });
      const inputs = network.shape.join(" × ");
      const fits = network.shape.reduce((a, b) => a * b, 1) === SIDE * SIDE;
      if (!fits) throw new Error(`it takes ${inputs} numbers, and a drawing has 28 × 28`);
      if (network.work > MOST_WORK) throw new Error("it is too large for a page");
      network.outputs(INPUTS.plain(examples[0].pixels));
      players.own = { network, size: bytes.length, input: usual(network), features: null };
      part("input").value = players.own.input;
      part("own-name").textContent = `${file.name}, ${counted(bytes.length)} bytes`;
      const choice = root.querySelector("input[value=own]");
      choice.disabled = false;
      choice.checked = true;
      choose("own");
    } catch (error) {
      complain(`${file.name} was not taken: ${error.message}.`);
    }
  }

  part("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    event.target.value = "";
    if (file) take(file);
  });
  root.addEventListener("dragover", (event) => {
    event.preventDefault();
    root.classList.add("draw-over");
  });
  root.addEventListener("dragleave", () => root.classList.remove("draw-over"));
  root.addEventListener("drop", (event) => {
    event.preventDefault();
    root.classList.remove("draw-over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else complain("What was dropped is no file.");
  });

  // ---- Begin.

  for (const name of ["trained", "random"]) {
    const { size, accuracy } = data[name];
    const right = `${percent(accuracy)} of the test images right`;
    part(`about-${name}`).textContent = `${counted(size)} bytes, ${right}`;
  }
  const sparsities = [...new Set(data.grid.map((one) => one.sparsity))];
  part("sparsities").append(row(["", ...sparsities.map((s) => `ε = ${s}`)], 5));
  for (const cell of part("sparsities").querySelectorAll("th")) cell.scope = "col";
  root.hidden = false;
  compareLater(player);
  showExample();
  const openNext = () => {
    twelve.push(opened(data.grid[twelve.length], "normal"));
    if (twelve.length < data.grid.length) setTimeout(openNext);
    else showTwelve();
  };
  setTimeout(openNext);
});
