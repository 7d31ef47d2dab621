// Reads a network's file and runs it: ntklc.read(bytes) -> network. What each part below follows
// stands on the page "The file, byte by byte". No dependency; in a browser or any other engine.
//
//   const network = ntklc.read(bytes);   // Uint8Array or ArrayBuffer; throws ntklc.FileError
//   network.shape                        // sides of one sample, such as [784] or [1, 28, 28]
//   network.outputs(x)                   // scores of the classes, or values, for numbers x
//   network.predict(x)                   // the label, or the values
//   network.features(x)                  // what the last layer is given

"use strict";

const ntklc = (() => {
  const MARK = '{"__metadata__":{"ntklc":"';
  const VERSION = "2";
  const MOST_TEXT = 2 ** 24;
  const MOST_NUMBERS = 2 ** 28;
  const MOST_NEURONS = 2 ** 20;
  const MOST_OF_A_SIDE = 2 ** 12;
  const MOST_SIDES = 32;
  const MOST_LEVELS = 2 ** 16;
  const LARGEST_UNIT = 112;
  const LARGEST_INPUT = 1e60;
  const MOST_DIGITS = 4300;

  class FileError extends Error {
    constructor(reason) {
      super(reason);
      this.name = "FileError";
    }
  }

  const refuse = (reason) => {
    throw new FileError(reason);
  };

  const need = (holds, reason) => {
    if (!holds) refuse(reason);
  };

  // ---- SHA-256, FIPS 180-4: crypto.subtle is not there on a page opened from a folder.

  const primes = [];
  for (let n = 2; primes.length < 64; n++) if (primes.every((p) => n % p)) primes.push(n);
  const fraction = (x) => Math.floor((x - Math.floor(x)) * 2 ** 32) | 0;
  const ROUND_CONSTANTS = primes.map((p) => fraction(Math.cbrt(p)));
  const START = primes.slice(0, 8).map((p) => fraction(Math.sqrt(p)));

  function sha256(bytes) {
    const padded = new Uint8Array(Math.ceil((bytes.length + 9) / 64) * 64);
    padded.set(bytes);
    padded[bytes.length] = 0x80;
    const view = new DataView(padded.buffer);
    view.setUint32(padded.length - 8, Math.floor(bytes.length / 2 ** 29));
    view.setUint32(padded.length - 4, (bytes.length << 3) >>> 0);
    const hash = Int32Array.from(START);
    const w = new Int32Array(64);
    const turn = (x, n) => (x >>> n) | (x << (32 - n));
    for (let at = 0; at < padded.length; at += 64) {
      for (let t = 0; t < 16; t++) w[t] = view.getInt32(at + 4 * t);
      for (let t = 16; t < 64; t++) {
        const x = w[t - 15];
        const y = w[t - 2];
        const s0 = turn(x, 7) ^ turn(x, 18) ^ (x >>> 3);
        const s1 = turn(y, 17) ^ turn(y, 19) ^ (y >>> 10);
        w[t] = (w[t - 16] + s0 + w[t - 7] + s1) | 0;
      }
      let [a, b, c, d, e, f, g, h] = hash;
      for (let t = 0; t < 64; t++) {
        const s1 = turn(e, 6) ^ turn(e, 11) ^ turn(e, 25);
        const t1 = (h + s1 + ((e & f) ^ (~e & g)) + ROUND_CONSTANTS[t] + w[t]) | 0;
        const s0 = turn(a, 2) ^ turn(a, 13) ^ turn(a, 22);
        const t2 = (s0 + ((a & b) ^ (a & c) ^ (b & c))) | 0;
        [h, g, f, e, d, c, b, a] = [g, f, e, (d + t1) | 0, c, b, a, (t1 + t2) | 0];
      }
      [a, b, c, d, e, f, g, h].forEach((x, i) => (hash[i] = (hash[i] + x) | 0));
    }
    const out = new DataView(new ArrayBuffer(32));
    hash.forEach((x, i) => out.setInt32(4 * i, x));
    return new Uint8Array(out.buffer);
  }

  const LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

  // Of whole groups of three bytes.
  function base64(bytes) {
    let text = "";
    for (let i = 0; i < bytes.length; i += 3) {
      const three = (bytes[i] << 16) | (bytes[i + 1] << 8) | bytes[i + 2];
      for (const shift of [18, 12, 6, 0]) text += LETTERS[(three >> shift) & 63];
    }
    return text;
  }

  // ---- DEFLATE, RFC 1951, into a text of bounded size; ends where the bytes end.

  const LENGTH_BASE = [
    3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131,
    163, 195, 227, 258,
  ];
  const LENGTH_EXTRA = [
    0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0,
  ];
  const DISTANCE_BASE = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537,
    2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577,
  ];
  const DISTANCE_EXTRA = [
    0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13,
    13,
  ];
  const ORDER = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];

  // Codes of these lengths: how many of each, and symbols in order; and how many codes are unused.
  function huffman(lengths) {
    const count = new Array(16).fill(0);
    for (const length of lengths) count[length] += 1;
    const start = [0, 0];
    let left = 1;
    for (let length = 1; length < 16; length++) {
      left = 2 * left - count[length];
      need(left >= 0, "the description's codes do not fit each other");
      start.push(start[length] + count[length]);
    }
    const symbols = [];
    lengths.forEach((length, symbol) => {
      if (length) symbols[start[length]++] = symbol;
    });
    return { count, symbols, left, used: lengths.length - count[0] };
  }

  const FIXED = [
    huffman(Array.from({ length: 288 }, (_, i) => (i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8))),
    huffman(new Array(30).fill(5)),
  ];

  function inflate(bytes, most = MOST_TEXT) {
    let place = 0;
    let held = 0;
    let holding = 0;
    let out = new Uint8Array(Math.min(most, Math.max(64, 4 * bytes.length)));
    let size = 0;

    function bits(n) {
      while (holding < n) {
        need(place < bytes.length, "the description is cut off");
        held |= bytes[place++] << holding;
        holding += 8;
      }
      const found = held & ((1 << n) - 1);
      held >>>= n;
      holding -= n;
      return found;
    }

    function symbol({ count, symbols }) {
      let code = 0;
      let first = 0;
      let index = 0;
      for (let length = 1; length < 16; length++) {
        code |= bits(1);
        if (code - count[length] < first) return symbols[index + code - first];
        index += count[length];
        first = (first + count[length]) << 1;
        code <<= 1;
      }
      return refuse("the description has a code that is none");
    }

    function put(byte) {
      if (size === out.length) {
        need(size < most, "the description is too long");
        const more = new Uint8Array(Math.min(most, 2 * size));
        more.set(out);
        out = more;
      }
      out[size++] = byte;
    }

    function stored() {
      held = holding = 0;
      need(place + 4 <= bytes.length, "the description is cut off");
      const length = bytes[place] | (bytes[place + 1] << 8);
      const inverse = bytes[place + 2] | (bytes[place + 3] << 8);
      need(length === (~inverse & 0xffff), "the description's stored part is damaged");
      place += 4;
      need(place + length <= bytes.length, "the description is cut off");
      for (let i = 0; i < length; i++) put(bytes[place++]);
    }

    function tables() {
      const [literals, distances, given] = [bits(5) + 257, bits(5) + 1, bits(4) + 4];
      need(literals <= 286 && distances <= 30, "the description has too many codes");
      const short = new Array(19).fill(0);
      for (let i = 0; i < given; i++) short[ORDER[i]] = bits(3);
      const code = huffman(short);
      need(code.left === 0, "the description's codes do not fit each other");
      const lengths = [];
      while (lengths.length < literals + distances) {
        const found = symbol(code);
        if (found < 16) {
          lengths.push(found);
          continue;
        }
        need(found > 16 || lengths.length, "the description repeats what is not there");
        const value = found === 16 ? lengths[lengths.length - 1] : 0;
        const times = found === 16 ? 3 + bits(2) : found === 17 ? 3 + bits(3) : 11 + bits(7);
        for (let i = 0; i < times; i++) lengths.push(value);
      }
      need(lengths.length === literals + distances && lengths[256], "the description has no end");
      return [lengths.slice(0, literals), lengths.slice(literals)].map((part) => {
        const made = huffman(part);
        // A set of codes is complete, or has none, or one of a single bit.
        const alone = made.used === made.count[1] && made.used <= 1;
        need(made.left === 0 || alone, "the description's codes do not fit each other");
        return made;
      });
    }

    function compressed([literal, distance]) {
      for (;;) {
        const found = symbol(literal);
        if (found === 256) return;
        if (found < 256) {
          put(found);
          continue;
        }
        need(found < 286, "the description has a code that is none");
        const length = LENGTH_BASE[found - 257] + bits(LENGTH_EXTRA[found - 257]);
        const far = symbol(distance);
        const back = DISTANCE_BASE[far] + bits(DISTANCE_EXTRA[far]);
        need(back <= size, "the description refers to what is not there");
        for (let i = 0; i < length; i++) put(out[size - back]);
      }
    }

    let last = 0;
    while (!last) {
      last = bits(1);
      const kind = bits(2);
      need(kind < 3, "the description has a part of no kind");
      if (kind === 0) stored();
      else compressed(kind === 1 ? FIXED : tables());
    }
    need(place === bytes.length, "the description does not end where it should");
    return out.subarray(0, size);
  }

  // ---- JSON, RFC 8259: whole numbers as BigInt, so that 2 is told from 2.0 and a seed is exact.

  function text(bytes) {
    try {
      return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    } catch {
      return refuse("text is not UTF-8");
    }
  }

  const MOST_DEPTH = 100;
  const ESCAPES = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t", '"': '"', "\\": "\\", "/": "/" };

  function parse(source) {
    let at = 0;
    const wrong = () => refuse(`the description is no JSON at character ${at}`);
    const space = () => {
      while (" \t\n\r".includes(source[at] ?? "x")) at += 1;
    };

    function string() {
      at += 1;
      let found = "";
      for (;;) {
        const from = at;
        while (at < source.length && source[at] !== '"' && source[at] !== "\\") {
          if (source.charCodeAt(at) < 32) wrong();
          at += 1;
        }
        found += source.slice(from, at);
        if (at >= source.length) wrong();
        if (source[at++] === '"') return found;
        const letter = source[at++];
        if (letter === "u") {
          const digits = source.slice(at, at + 4);
          if (!/^[0-9a-fA-F]{4}$/.test(digits)) wrong();
          found += String.fromCharCode(parseInt(digits, 16));
          at += 4;
        } else {
          if (!Object.hasOwn(ESCAPES, letter)) wrong();
          found += ESCAPES[letter];
        }
      }
    }

    const numeral = /-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?/y;
    function number() {
      numeral.lastIndex = at;
      const found = numeral.exec(source);
      if (!found) wrong();
      at = numeral.lastIndex;
      if (found[1] !== undefined || found[2] !== undefined) return Number(found[0]);
      if (found[0].length > MOST_DIGITS) wrong();
      return BigInt(found[0]);
    }

    // What stands between the brackets, each item read by `one`.
    function items(close, one) {
      at += 1;
      space();
      if (source[at] === close) {
        at += 1;
        return;
      }
      for (;;) {
        space();
        one();
        space();
        if (source[at] === close) {
          at += 1;
          return;
        }
        if (source[at] !== ",") wrong();
        at += 1;
      }
    }

    function value(depth) {
      need(depth <= MOST_DEPTH, "the description is nested too deep");
      space();
      const first = source[at];
      if (first === "{") {
        const found = new Map();
        items("}", () => {
          if (source[at] !== '"') wrong();
          const key = string();
          space();
          if (source[at] !== ":") wrong();
          at += 1;
          found.set(key, value(depth + 1));
        });
        return found;
      }
      if (first === "[") {
        const found = [];
        items("]", () => found.push(value(depth + 1)));
        return found;
      }
      if (first === '"') return string();
      for (const [word, meant] of [["true", true], ["false", false], ["null", null]]) {
        if (source.startsWith(word, at)) {
          at += word.length;
          return meant;
        }
      }
      return number();
    }

    const found = value(0);
    space();
    if (at !== source.length) wrong();
    return found;
  }

  // ---- What a description may say.

  const shown = (value) => {
    if (typeof value === "string") return JSON.stringify(value.slice(0, 40));
    if (value instanceof Map) return "an object";
    if (Array.isArray(value)) return "a list";
    return value === undefined ? "nothing" : String(value).slice(0, 40);
  };

  function whole(name, value, least, most) {
    const below = most === undefined || value <= most;
    const holds = typeof value === "bigint" && value >= least && below;
    const span = most === undefined ? `of at least ${least}` : `from ${least} to ${most}`;
    need(holds, `${name} must be a whole number ${span}, got ${shown(value)}`);
    return Number(value);
  }

  function finite(name, value) {
    const found = typeof value === "bigint" ? Number(value) : value;
    const holds = typeof found === "number" && Number.isFinite(found);
    need(holds, `${name} must be a finite number, got ${shown(value)}`);
    return found;
  }

  function list(name, value, length) {
    need(Array.isArray(value), `${name} must be a list, got ${shown(value)}`);
    const fits = length === undefined || value.length === length;
    need(fits, `${name} must have ${length} entries, got ${value.length}`);
    return value;
  }

  function object(name, value, known) {
    need(value instanceof Map, `${name} must be an object, got ${shown(value)}`);
    if (known) {
      for (const key of value.keys()) need(known.includes(key), `${name} has no ${shown(key)}`);
    }
    return value;
  }

  const truth = (name, value) => {
    need(typeof value === "boolean", `${name} must be true or false, got ${shown(value)}`);
    return value;
  };

  const highest = (values) => values.reduce((a, b) => (b > a ? b : a), -Infinity);
  const lowest = (values) => -highest(values.map((value) => -value));
  const product = (sides) => sides.reduce((a, b) => a * b, 1);

  // ---- The frame: header, digest, description, arrays.

  function half(code) {
    const [sign, exponent, part] = [code >> 15 ? -1 : 1, (code >> 10) & 31, code & 1023];
    if (exponent === 31) return part ? NaN : sign * Infinity;
    return sign * (exponent ? (1024 + part) * 2 ** (exponent - 25) : part * 2 ** -24);
  }

  const exact = (big) => {
    const found = Number(big);
    return Number.isSafeInteger(found) ? found : big;
  };
  // Of each dtype: bytes an entry, the array that holds it, and how one is read.
  const DTYPES = {
    u1: [1, Uint8Array, (view, at) => view.getUint8(at)],
    i1: [1, Int8Array, (view, at) => view.getInt8(at)],
    u2: [2, Uint16Array, (view, at) => view.getUint16(at, true)],
    i2: [2, Int16Array, (view, at) => view.getInt16(at, true)],
    u4: [4, Uint32Array, (view, at) => view.getUint32(at, true)],
    i4: [4, Int32Array, (view, at) => view.getInt32(at, true)],
    i8: [8, Array, (view, at) => exact(view.getBigInt64(at, true))],
    f2: [2, Float32Array, (view, at) => half(view.getUint16(at, true))],
    f4: [4, Float32Array, (view, at) => view.getFloat32(at, true)],
    f8: [8, Float64Array, (view, at) => view.getFloat64(at, true)],
  };

  function body(bytes) {
    const mark = new TextEncoder().encode(MARK);
    const begins = mark.every((byte, i) => bytes[8 + i] === byte);
    need(begins, "not a compressed network, or its header is damaged");
    const at = 8 + mark.length;
    const blanked = bytes.slice();
    blanked.fill(48, at, at + 16);
    const digest = base64(sha256(blanked).subarray(0, 12));
    const told = String.fromCharCode(...bytes.subarray(at, at + 16));
    need(digest === told, "damaged: its content does not have the digest in its header");
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const size = view.getUint32(0, true);
    const fits = view.getUint32(4, true) === 0 && 8 + size <= bytes.length;
    need(fits, "its header reaches beyond the end");
    const header = object("header", parse(text(bytes.subarray(8, 8 + size))));
    const notes = object("__metadata__", header.get("__metadata__"));
    for (const told of notes.values()) need(typeof told === "string", "its header is damaged");
    const note = notes.get("ntklc");
    const [, version, ...more] = typeof note === "string" ? note.split(" ") : [];
    need(more.length === 0 && version !== undefined, "its header is damaged");
    need(version === VERSION, `of version ${version}; this reader reads version ${VERSION}`);
    object("header", header, ["__metadata__", ""]);
    const array = object("header", header.get(""), ["dtype", "shape", "data_offsets"]);
    need(array.get("dtype") === "U8", "its header must name one array of bytes");
    const rest = bytes.subarray(8 + size);
    const [length] = list("shape", array.get("shape"), 1);
    const [start, end] = list("data_offsets", array.get("data_offsets"), 2);
    const spans = [length, end].every((n) => n === BigInt(rest.length)) && start === 0n;
    need(spans, "its header must name one array of all bytes that follow");
    return rest;
  }

  // {description, arrays}: a Map, and by name {dtype, shape, data}.
  function unpack(bytes) {
    const held = body(bytes);
    need(held.length >= 4, "there is no description");
    const view = new DataView(held.buffer, held.byteOffset, held.length);
    const end = 4 + view.getUint32(0, true);
    need(end <= held.length, "the description reaches beyond the end");
    const description = parse(text(inflate(held.subarray(4, end))));
    object("description", description);
    const arrays = new Map();
    let at = end;
    for (const entry of list("arrays", description.get("arrays"))) {
      const [name, dtype, ...sides] = list("arrays", entry);
      need(typeof name === "string" && !arrays.has(name), "arrays must have names of their own");
      const known = typeof dtype === "string" && Object.hasOwn(DTYPES, dtype);
      need(known, `there is no array of dtype ${shown(dtype)}`);
      const left = held.length - at;
      need(sides.length <= MOST_SIDES, `arrays must have at most ${MOST_SIDES} sides`);
      const shape = sides.map((side) => whole("a side of an array", side, 0, left));
      const [size, Kind, get] = DTYPES[dtype];
      const count = product(shape);
      need(count * size <= left, "arrays reach beyond the end");
      const data = new Kind(count);
      for (let i = 0; i < count; i++) data[i] = get(view, at + size * i);
      arrays.set(name, { dtype, shape, data });
      at += count * size;
    }
    need(at === held.length, "there is more than the arrays that are listed");
    return { description, arrays };
  }

  // Arrays whose name begins with a part and a dot, by the rest of their names.
  function partOf(arrays, part) {
    const found = new Map();
    for (const [name, array] of arrays) {
      const dot = name.indexOf(".");
      const own = dot < 0 ? name : name.slice(0, dot);
      if (own === part) found.set(dot < 0 ? "" : name.slice(dot + 1), array);
    }
    return found;
  }

  function vector(arrays, name, dtype) {
    const array = arrays.get(name);
    need(array, `${name} is missing`);
    const fits = array.dtype === dtype && array.shape.length === 1;
    need(fits, `${name} must be a vector of ${dtype}`);
    return array.data;
  }

  // ---- Weights: by seed, or packed.

  const words = (n) => {
    const found = [];
    do {
      found.push(Number(n & 0xffffffffn));
      n >>= 32n;
    } while (n > 0n);
    return found;
  };

  // numpy's SeedSequence: eight words of state from whole numbers.
  function seedState(numbers) {
    const entropy = numbers.flatMap(words);
    let constant = 0x43b0d7e5;
    const hashed = (value, factor) => {
      value ^= constant;
      constant = Math.imul(constant, factor);
      value = Math.imul(value, constant);
      return value ^ (value >>> 16);
    };
    const mix = (x, y) => {
      const found = (Math.imul(0xca01f9dd, x) - Math.imul(0x4973f715, y)) | 0;
      return found ^ (found >>> 16);
    };
    const pool = [0, 1, 2, 3].map((i) => hashed(entropy[i] ?? 0, 0x931e8875));
    for (let from = 0; from < 4; from++) {
      for (let to = 0; to < 4; to++) {
        if (from !== to) pool[to] = mix(pool[to], hashed(pool[from], 0x931e8875));
      }
    }
    for (const word of entropy.slice(4)) {
      for (let to = 0; to < 4; to++) pool[to] = mix(pool[to], hashed(word, 0x931e8875));
    }
    constant = 0x8b51f9dd;
    return Array.from({ length: 8 }, (_, i) => hashed(pool[i % 4], 0x58f38ded) >>> 0);
  }

  // PCG64 (XSL-RR): each call writes the two halves of its next 64 bits, the lower first.
  function pcg64(numbers) {
    const state = seedState(numbers);
    const bigs = [0, 1, 2, 3].map((i) => BigInt(state[2 * i]) | (BigInt(state[2 * i + 1]) << 32n));
    const limbs = (big) => {
      const found = new Float64Array(8);
      for (let i = 0; i < 8; i++) found[i] = Number((big >> BigInt(16 * i)) & 0xffffn);
      return found;
    };
    const factor = limbs(0x2360ed051fc65da44385df649fccf645n);
    const added = limbs((((bigs[2] << 64n) | bigs[3]) << 1n) | 1n);
    const begin = limbs((bigs[0] << 64n) | bigs[1]);
    let now = new Float64Array(8);
    let next = new Float64Array(8);
    // 16 bits a limb: sums of products stay far below 2^53.
    const step = () => {
      let carry = 0;
      for (let i = 0; i < 8; i++) {
        let sum = carry + added[i];
        for (let j = 0; j <= i; j++) sum += now[j] * factor[i - j];
        carry = Math.floor(sum / 65536);
        next[i] = sum - carry * 65536;
      }
      [now, next] = [next, now];
    };
    step();
    let carry = 0;
    for (let i = 0; i < 8; i++) {
      const sum = now[i] + begin[i] + carry;
      carry = sum >= 65536 ? 1 : 0;
      now[i] = sum - carry * 65536;
    }
    step();
    const two = new Uint32Array(2);
    return () => {
      step();
      const low = ((now[0] ^ now[4]) | ((now[1] ^ now[5]) << 16)) >>> 0;
      const high = ((now[2] ^ now[6]) | ((now[3] ^ now[7]) << 16)) >>> 0;
      const turn = now[7] >>> 10;
      const [a, b] = turn & 32 ? [high, low] : [low, high];
      const by = turn & 31;
      two[0] = by ? (a >>> by) | (b << (32 - by)) : a;
      two[1] = by ? (b >>> by) | (a << (32 - by)) : b;
      return two;
    };
  }

  // Halves go to the even neighbour.
  function nearest(x) {
    const floor = Math.floor(x);
    const rest = x - floor;
    return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
  }

  // rows x columns entries -1, 0, 1 from whole numbers (BigInt) seed and stream.
  function drawTernary(rows, columns, sparsity, seed, stream) {
    const count = rows * columns;
    const signs = new Int8Array(count);
    const next = pcg64([seed, stream]);
    const cut = nearest(sparsity * 2 ** 31);
    for (let i = 0; i < count; i += 2) {
      const two = next();
      if (two[0] >>> 1 >= cut) signs[i] = two[0] & 1 ? 1 : -1;
      if (i + 1 < count && two[1] >>> 1 >= cut) signs[i + 1] = two[1] & 1 ? 1 : -1;
    }
    return signs;
  }

  const bit = (bytes, at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1;

  // A stream of so many bits: as many bytes as they need, and zeros behind the last.
  function exactly(stream, count, name) {
    let fits = stream.length === Math.ceil(count / 8);
    for (let at = count; fits && at < 8 * stream.length; at++) fits = !bit(stream, at);
    need(fits, `${name} must hold ${count} bits and nothing more`);
    return stream;
  }

  function unpackTernary(total, { zeros, k, count, unary, low, signs }) {
    exactly(low, count * k, "low");
    exactly(signs, zeros ? total - count : count, "signs");
    const dense = new Int8Array(total);
    let [position, gap, found] = [-1, 0, 0];
    const marked = [];
    for (let at = 0; at < 8 * unary.length; at++) {
      if (!bit(unary, at)) {
        gap += 1;
        continue;
      }
      need(found < count, `unary must hold ${count} gaps and nothing more`);
      let rest = 0;
      for (let i = 0; i < k; i++) rest = 2 * rest + bit(low, found * k + i);
      position += gap * 2 ** k + rest + 1;
      need(position < total, "positions of weights reach beyond the matrix");
      marked.push(position);
      found += 1;
      gap = 0;
    }
    need(found === count && gap < 8, `unary must hold ${count} gaps and nothing more`);
    need(count > 0 || unary.length === 0, `unary must hold ${count} gaps and nothing more`);
    if (!zeros) {
      marked.forEach((at, i) => (dense[at] = bit(signs, i) ? -1 : 1));
      return dense;
    }
    let [taken, next] = [0, 0];
    for (let at = 0; at < total; at++) {
      if (marked[next] === at) next += 1;
      else dense[at] = bit(signs, taken++) ? -1 : 1;
    }
    return dense;
  }

  // The i-th of numbers of so many bits each, from their lowest on.
  function numberAt(stream, i, bits) {
    let found = 0;
    for (let b = 0; b < bits; b++) found += bit(stream, i * bits + b) << b;
    return found;
  }

  function unpackCodes(stream, count, bits) {
    exactly(stream, bits * count, "codes");
    const least = 2 ** (bits - 1);
    return Int8Array.from({ length: count }, (_, i) => numberAt(stream, i, bits) - least);
  }

  // Codes of which it is told where they are not 0, and their signs; and sizes, if not all are 1.
  function unpackPlaced(stream, count, width, [zeros, k, many]) {
    const told = {
      zeros: truth("packed", zeros),
      k: whole("rice_bits", k, 0, 30),
      count: whole("count", many, 0, count),
    };
    const nonzeros = told.zeros ? count - told.count : told.count;
    const lengths = [told.count * told.k, nonzeros, nonzeros * width];
    let start = 0;
    const [low, signs, sizes] = lengths.map((bits) => {
      const part = stream.subarray(start, start + Math.ceil(bits / 8));
      start += Math.ceil(bits / 8);
      return part;
    });
    const codes = unpackTernary(count, { ...told, low, signs, unary: stream.subarray(start) });
    if (!width) return codes;
    exactly(sizes, nonzeros * width, "codes");
    let next = 0;
    for (let i = 0; i < count; i++) {
      if (!codes[i]) continue;
      const size = 1 + numberAt(sizes, next++, width);
      need(codes[i] < 0 || size < 2 ** width, `there are no codes of ${width + 1} bits as large`);
      codes[i] *= size;
    }
    return codes;
  }

  // ---- Staircases.

  function staircase(thresholds, levels) {
    const fits = levels.length >= 2 && levels.length === thresholds.length + 1;
    need(fits, "levels must have one entry more than thresholds, and at least 2");
    need(thresholds.every(Number.isFinite), "thresholds must be finite");
    need(levels.every(Number.isFinite), "levels must be finite");
    const rising = thresholds.every((t, i) => i === 0 || t > thresholds[i - 1]);
    need(rising, "thresholds must be strictly increasing");
    return { thresholds, levels };
  }

  // How many thresholds lie below t.
  function passed(t, thresholds) {
    let [low, high] = [0, thresholds.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (t > thresholds[middle]) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  // ---- Networks of ternary layers.

  // {base, step, codes}: levels on a uniform grid, or null.
  function gridOf(levels) {
    const distinct = [...new Set(levels)].sort((a, b) => a - b);
    if (distinct.length === 1) return null;
    let step = Infinity;
    for (let i = 1; i < distinct.length; i++) step = Math.min(step, distinct[i] - distinct[i - 1]);
    const codes = Array.from(levels, (level) => nearest((level - distinct[0]) / step));
    const rests = Array.from(levels, (level, i) => level - step * codes[i]);
    const base = rests.reduce((a, b) => a + b, 0) / levels.length;
    const off = highest(codes.map((code, i) => Math.abs(base + step * code - levels[i])));
    const reach = distinct[distinct.length - 1] - distinct[0];
    if (highest(codes) >= 256 || !(off <= 1e-12 * reach)) return null;
    const first = nearest((2 * base) / step) / 2;
    if (Math.abs(first) <= 256 && Math.abs(first * step - base) <= 1e-9 * step) {
      return { base: 0, step, codes: codes.map((code) => code + first) };
    }
    return { base, step, codes };
  }

  // Columns of each row's +1, and of its -1, one row after another.
  function places(weights, rows, columns) {
    const [ups, downs] = [new Int32Array(rows + 1), new Int32Array(rows + 1)];
    let [up, down] = [0, 0];
    for (let i = 0; i < rows * columns; i++) {
      if (weights[i] > 0) up += 1;
      else if (weights[i] < 0) down += 1;
      if ((i + 1) % columns === 0) {
        ups[(i + 1) / columns] = up;
        downs[(i + 1) / columns] = down;
      }
    }
    const [plus, minus] = [new Int32Array(up), new Int32Array(down)];
    [up, down] = [0, 0];
    for (let r = 0, i = 0; r < rows; r++) {
      for (let c = 0; c < columns; c++, i++) {
        if (weights[i] > 0) plus[up++] = c;
        else if (weights[i] < 0) minus[down++] = c;
      }
    }
    return { ups, downs, plus, minus };
  }

  function ternaryLayer(about, arrays, most) {
    object("a layer", about);
    const sides = list("shape", about.get("shape"), 2);
    const [rows, columns] = sides.map((side) => whole("shape", side, 1, MOST_NEURONS));
    const levels = vector(arrays, "levels", "f8");
    const stairs = staircase(vector(arrays, "thresholds", "f8"), levels);
    need(levels.length <= MOST_LEVELS, `there must be at most ${MOST_LEVELS} levels`);
    const room = rows * Math.max(columns, levels.length);
    need(room <= most, `a layer must not ask for more than ${most} numbers`);
    const scale = finite("scale", about.get("scale"));
    need(scale > 0, "scale must be positive");
    let weights;
    if (about.has("drawn")) {
      const drawn = object("drawn", about.get("drawn"), ["sparsity", "seed", "stream"]);
      const sparsity = finite("sparsity", drawn.get("sparsity"));
      need(sparsity >= 0 && sparsity < 1, `sparsity must be in [0, 1), got ${sparsity}`);
      for (const name of ["seed", "stream"]) whole(name, drawn.get(name), 0);
      weights = drawTernary(rows, columns, sparsity, drawn.get("seed"), drawn.get("stream"));
    } else {
      const packed = object("packed", about.get("packed"), ["codes_zeros", "rice_bits", "count"]);
      weights = unpackTernary(rows * columns, {
        zeros: truth("codes_zeros", packed.get("codes_zeros")),
        k: whole("rice_bits", packed.get("rice_bits"), 0, 30),
        count: whole("count", packed.get("count"), 0, rows * columns),
        unary: vector(arrays, "unary", "u1"),
        low: vector(arrays, "low", "u1"),
        signs: vector(arrays, "signs", "u1"),
      });
    }
    const offset = arrays.has("offset") ? vector(arrays, "offset", "f4") : null;
    if (offset) {
      need(offset.length === rows, `offset must have one entry per neuron, ${rows}`);
      need(offset.every(Number.isFinite), "offset must be finite");
    }
    return { rows, columns, scale, stairs, weights, offset, grid: gridOf(stairs.levels) };
  }

  // Codes about their middle, as small as can be.
  function centred(codes) {
    const [low, high] = [lowest(codes), highest(codes)];
    const middle = low + Math.floor((high - low + 1) / 2);
    return { middle, codes: codes.map((code) => code - middle) };
  }

  // How a layer is run behind another, or first: bounds of its sums, and what it passes on.
  function prepared(layer, before, last) {
    const { rows, columns, scale, stairs, offset } = layer;
    const listed = places(layer.weights, rows, columns);
    const grid = before && before.grid;
    const [base, step] = grid ? [grid.base, grid.step] : [0, 1];
    const gain = scale * step;
    const many = stairs.thresholds.length;
    const bounds = new Float64Array(rows * many);
    for (let r = 0; r < rows; r++) {
      const ups = listed.ups[r + 1] - listed.ups[r];
      const sum = ups - (listed.downs[r + 1] - listed.downs[r]);
      let shift = (offset ? offset[r] : 0) + scale * base * sum;
      if (grid) shift += gain * centred(grid.codes).middle * sum;
      for (let t = 0; t < many; t++) {
        const bound = (stairs.thresholds[t] - shift) / gain;
        bounds[r * many + t] = grid ? Math.floor(bound + 1e-9) : bound;
      }
    }
    const values = last
      ? Float32Array.from(stairs.levels)
      : Float64Array.from(layer.grid ? centred(layer.grid.codes).codes : stairs.levels);
    return { rows, columns, many, bounds, values, ...listed };
  }

  // Signed sums of numbers, +1 first, four added up before they join: the order is the format's.
  function runLayer({ rows, many, bounds, values, ups, downs, plus, minus }, x) {
    const found = new Float64Array(rows);
    for (let r = 0; r < rows; r++) {
      let total = 0;
      let q = ups[r];
      let end = ups[r + 1];
      for (; q + 4 <= end; q += 4) {
        total += x[plus[q]] + x[plus[q + 1]] + x[plus[q + 2]] + x[plus[q + 3]];
      }
      for (; q < end; q++) total += x[plus[q]];
      q = downs[r];
      end = downs[r + 1];
      for (; q + 4 <= end; q += 4) {
        total -= x[minus[q]] + x[minus[q + 1]] + x[minus[q + 2]] + x[minus[q + 3]];
      }
      for (; q < end; q++) total -= x[minus[q]];
      let j = 0;
      for (let t = r * many; t < (r + 1) * many; t++) j += total > bounds[t] ? 1 : 0;
      found[r] = values[j];
    }
    return found;
  }

  function labelsOf(array) {
    const { dtype, shape, data } = array;
    if (!data.length) return null;
    if (dtype === "i8") {
      need(shape.length === 1, "classes must be a vector");
      return data;
    }
    const spelled = dtype === "u4" && shape.length === 2 && data.every((code) => code < 0x110000);
    need(spelled, "classes must be whole numbers or code points");
    const size = shape[shape.length - 1];
    const labels = [];
    for (let at = 0; at < data.length; at += size) {
      const letters = Array.from(data.slice(at, at + size));
      while (letters.length && letters[letters.length - 1] === 0) letters.pop();
      labels.push(letters.map((code) => String.fromCodePoint(code)).join(""));
    }
    return labels;
  }

  function readoutOf(arrays, width) {
    const [weights, scale, bias, classes] = ["weights", "scale", "bias", "classes"].map((name) => {
      need(arrays.has(name), `readout.${name} is missing`);
      return arrays.get(name);
    });
    need(["f4", "f2", "i1"].includes(weights.dtype), "a readout's weights must be f4, f2 or i1");
    const kinds = scale.dtype === bias.dtype && ["f4", "f8"].includes(scale.dtype);
    need(kinds, "a readout's scale and bias must both be f4 or both f8");
    const [d, K] = weights.shape;
    const names = labelsOf(classes);
    const fits =
      weights.shape.length === 2 && d === width && K > 0 &&
      [scale, bias].every(({ shape }) => shape.length === 1 && shape[0] === K) &&
      (names === null || names.length === K);
    need(fits, `a readout must take ${width} features, and have an entry an output`);
    const single = scale.dtype === "f4";
    const round = single ? Math.fround : (x) => x;
    const used = Float64Array.from(weights.data, (w, i) => round(w * scale.data[i % K]));
    const bounded = [used, bias.data].every((part) => part.every(Number.isFinite));
    need(bounded, "a readout must be finite");
    const scores = (features) => {
      const sums = new Float64Array(K);
      for (let i = 0, at = 0; i < d; i++) {
        const value = features[i];
        for (let k = 0; k < K; k++, at++) sums[k] += value * used[at];
      }
      return (single ? Float32Array : Float64Array).from(sums, (s, k) => round(s) + bias.data[k]);
    };
    return { scores, classes: names };
  }

  function scalingOf(arrays, p) {
    for (const name of arrays.keys()) need(["centre", "scale"].includes(name), "scaling is wrong");
    const [centre, scale] = ["centre", "scale"].map((name) => vector(arrays, name, "f8"));
    const fits = centre.length === p && scale.length === p;
    need(fits, `scaling must have an entry for each of ${p} inputs`);
    need(centre.every(Number.isFinite) && scale.every(Number.isFinite), "scaling must be finite");
    need(scale.every((s) => s > 0), "scaling must divide by positive numbers");
    return (x) => x.map((value, i) => (value - centre[i]) / scale[i]);
  }

  function layered(description, arrays, most) {
    const given = list("layers", description.get("layers"));
    need(given.length > 0, "there must be a layer at least");
    const layers = given.map((about, i) => ternaryLayer(about, partOf(arrays, String(i)), most));
    layers.forEach(({ columns }, i) => {
      const fits = i === 0 || layers[i - 1].rows === columns;
      need(fits, `layers must fit: ${i && layers[i - 1].rows} outputs are followed by ${columns}`);
    });
    const width = layers[layers.length - 1].rows;
    const [out, scaling] = ["readout", "scaling"].map((part) => partOf(arrays, part));
    const readout = out.size ? readoutOf(out, width) : null;
    const scaled = scaling.size ? scalingOf(scaling, layers[0].columns) : (x) => x;
    const runs = layers.map((layer, i) =>
      prepared(layer, layers[i - 1], i === layers.length - 1),
    );
    const features = (x) =>
      Float32Array.from(runs.reduce((h, run) => runLayer(run, h), scaled(x)));
    return {
      kind: "layers",
      scales: scaling.size > 0,
      shape: [layers[0].columns],
      widths: layers.map(({ rows }) => rows),
      weights: layers.map((layer) => layer.weights),
      classes: readout ? readout.classes : null,
      work: layers.reduce((sum, { rows, columns }) => sum + rows * columns, 0),
      checked: (x) => numbers(x, [layers[0].columns], (v) => Math.abs(v) <= LARGEST_INPUT),
      features,
      outputs: (x) => {
        if (!readout) throw new Error("the network has no readout");
        return readout.scores(features(x));
      },
    };
  }

  // ---- Networks of operations. Values are {shape, data}: sides of a sample, and its numbers.

  function windowOf(given) {
    const known = ["stride", "padding", "dilation", "groups"];
    const about = object("window", given, known);
    const pair = (name, least, usual) =>
      !about.has(name)
        ? [usual, usual]
        : list(name, about.get(name), 2).map((k) => whole(name, k, least, MOST_OF_A_SIDE));
    return {
      stride: pair("stride", 1, 1),
      padding: pair("padding", 0, 0),
      dilation: pair("dilation", 1, 1),
      groups: about.has("groups") ? whole("groups", about.get("groups"), 1, MOST_NUMBERS) : 1,
    };
  }

  function affine(about, arrays, most) {
    const bits = about.get("bits");
    const known = bits === "ternary" || [2n, 3n, 4n, 8n].includes(bits);
    need(known, `there are no codes of ${shown(bits)} bits`);
    const shape = list("shape", about.get("shape")).map((side) => whole("shape", side, 1));
    const window = about.has("window") ? windowOf(about.get("window")) : null;
    const fits = shape.length === (window ? 4 : 2) && product(shape) < most;
    need(fits, `there are no codes of shape ${shape}`);
    const [rows, count] = [shape[0], product(shape)];
    const both = arrays.get("rows");
    const stream = vector(arrays, "codes", "u1");
    const right = both && both.shape.length === 2 && both.shape[0] === 2 && both.shape[1] === rows;
    need(right, "scale and bias must have an entry a row");
    let values = both.data;
    if (both.dtype === "f2") {
      const units = list("units", about.get("units"), 2);
      const powers = units.map((unit) => 2 ** whole("units", unit, -LARGEST_UNIT, LARGEST_UNIT));
      values = values.map((x, i) => x * powers[i < rows ? 0 : 1]);
    } else need(both.dtype === "f4", "scale and bias must be f2 or f4");
    need(values.every(Number.isFinite), "scale and bias must be finite");
    const placed = bits === "ternary" || about.has("packed");
    const width = bits === "ternary" ? 0 : Number(bits) - 1;
    const codes = placed
      ? unpackPlaced(stream, count, width, list("packed", about.get("packed"), 3))
      : unpackCodes(stream, count, Number(bits));
    const parts = { rows, codes, shape, scale: values.slice(0, rows), bias: values.slice(rows) };
    return window ? convolution(parts, window) : linear(parts);
  }

  const settle = (sum, scale, bias) => Math.fround(Math.fround(sum) * scale) + bias;

  function linear({ rows, codes, shape, scale, bias }) {
    const columns = shape[1];
    return {
      name: "linear",
      weights: codes,
      outputs: rows,
      fits([given]) {
        const last = given[given.length - 1];
        need(last === columns, `operations do not fit: ${last} numbers are given to ${columns}`);
        return [...given.slice(0, -1), rows];
      },
      work: (made) => product(made) * columns,
      run([{ data }], made) {
        const found = new Float32Array(product(made));
        for (let start = 0, at = 0; at < found.length; start += columns) {
          for (let r = 0; r < rows; r++, at++) {
            let sum = 0;
            const first = r * columns;
            for (let c = 0; c < columns; c++) sum += codes[first + c] * data[start + c];
            found[at] = settle(sum, scale[r], bias[r]);
          }
        }
        return found;
      },
    };
  }

  const across = (side, kernel, stride, padding, dilation) =>
    Math.floor((side + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1;

  // Which outputs of a side see an input at that tap of a kernel: from, to.
  function seen(tap, side, made, stride, padding) {
    const first = Math.max(0, Math.ceil((padding - tap) / stride));
    return [first, Math.min(made - 1, Math.floor((side - 1 + padding - tap) / stride))];
  }

  function convolution({ rows, codes, shape, scale, bias }, window) {
    const [, channels, height, width] = shape;
    const { stride, padding, dilation, groups } = window;
    const [sy, sx] = stride;
    return {
      name: "convolution",
      weights: codes,
      outputs: rows,
      fits([given]) {
        need(given.length === 3, "operations do not fit: a convolution takes images");
        const [c, h, w] = given;
        const fit = c === channels * groups && rows % groups === 0;
        need(fit, `operations do not fit: ${c} channels are given to ${channels} x ${groups}`);
        const made = [h, w].map((side, i) =>
          across(side, [height, width][i], stride[i], padding[i], dilation[i]),
        );
        const sides = made.every((side) => side > 0);
        need(sides, "operations do not fit: a kernel is larger than its images");
        return [rows, ...made];
      },
      work: (made) => product(made) * channels * height * width,
      run([{ shape: [, h, w], data }], made) {
        const [, y, x] = made;
        const found = new Float32Array(rows * y * x);
        const sums = new Float64Array(y * x);
        for (let r = 0, tap = 0; r < rows; r++) {
          sums.fill(0);
          const first = Math.floor(r / (rows / groups)) * channels;
          for (let c = first; c < first + channels; c++) {
            for (let i = 0; i < height; i++) {
              const down = i * dilation[0];
              const [top, bottom] = seen(down, h, y, sy, padding[0]);
              for (let j = 0; j < width; j++, tap++) {
                const code = codes[tap];
                if (code === 0) continue;
                const along = j * dilation[1];
                const [left, right] = seen(along, w, x, sx, padding[1]);
                for (let a = top; a <= bottom; a++) {
                  const row = (c * h + a * sy + down - padding[0]) * w + along - padding[1];
                  for (let b = left; b <= right; b++) sums[a * x + b] += code * data[row + b * sx];
                }
              }
            }
          }
          for (let k = 0, at = r * y * x; k < y * x; k++, at++) {
            found[at] = settle(sums[k], scale[r], bias[r]);
          }
        }
        return found;
      },
    };
  }

  function steps(about, arrays) {
    let stairs;
    if (about.has("uniform")) {
      const [m, ...told] = list("uniform", about.get("uniform"), 5);
      const many = whole("uniform", m, 2, MOST_LEVELS);
      const [start, step, low, rise] = told.map((value) => finite("uniform", value));
      const at = Array.from({ length: many }, (_, i) => i);
      const thresholds = at.slice(0, -1).map((i) => Math.fround(start + step * i));
      stairs = staircase(thresholds, at.map((i) => Math.fround(low + rise * i)));
    } else {
      const both = vector(arrays, "staircase", "f4");
      need(both.length <= 2 * MOST_LEVELS, `there must be at most ${MOST_LEVELS} levels`);
      const cut = both.length >> 1;
      stairs = staircase(Array.from(both.slice(0, cut)), Array.from(both.slice(cut)));
    }
    const thresholds = Float32Array.from(stairs.thresholds);
    const levels = Float32Array.from(stairs.levels);
    return {
      name: "staircase",
      levels: levels.length,
      fits: ([given]) => given,
      work: product,
      run: ([{ data }]) => data.map((t) => levels[passed(t, thresholds)]),
    };
  }

  // Options of a pool: a whole number or two.
  function pairOf(options, name, least, usual) {
    const given = options.get(name);
    if (given === undefined) return usual;
    const two = !Array.isArray(given)
      ? [given, given]
      : given.length === 1
        ? [given[0], given[0]]
        : list(name, given, 2);
    return two.map((k) => whole(name, k, least, MOST_OF_A_SIDE));
  }

  const images = (given) => {
    need(given.length === 3, "operations do not fit: a pool takes images");
    return given;
  };

  // Each output from a box of inputs: take(data, the channel's first place, width, rows, columns).
  function pooled({ shape: [c, h, w], data }, [, y, x], boxes, take) {
    const found = new Float32Array(c * y * x);
    const [down, along] = boxes;
    for (let k = 0, at = 0; k < c; k++) {
      for (let a = 0; a < y; a++) {
        for (let b = 0; b < x; b++, at++) found[at] = take(data, k * h * w, w, down[a], along[b]);
      }
    }
    return found;
  }

  function maximum(data, plane, w, down, along) {
    let most = -Infinity;
    for (let i = down.from; i < down.to; i += down.by) {
      for (let j = along.from; j < along.to; j += along.by) {
        const value = data[plane + i * w + j];
        if (value > most) most = value;
      }
    }
    return most;
  }

  const average = (share) => (data, plane, w, down, along) => {
    let sum = 0;
    for (let i = down.from; i < down.to; i++) {
      for (let j = along.from; j < along.to; j++) sum += data[plane + i * w + j];
    }
    return Math.fround(sum) / share(down, along);
  };

  function moving(name, options) {
    const averages = name === "avg_pool2d";
    const known = ["kernel_size", "stride", "padding", "ceil_mode"].concat(
      averages ? ["count_include_pad", "divisor_override"] : ["dilation"],
    );
    object("options", options, known);
    const kernel = pairOf(options, "kernel_size", 1);
    need(kernel, `${name} needs a kernel_size`);
    if (options.get("stride") === null) options.delete("stride");
    const stride = pairOf(options, "stride", 1, kernel);
    const padding = pairOf(options, "padding", 0, [0, 0]);
    const dilation = pairOf(options, "dilation", 1, [1, 1]);
    const option = (key, usual) => (options.has(key) ? truth(key, options.get(key)) : usual);
    const ceil = option("ceil_mode", false);
    const borders = option("count_include_pad", true);
    const divisor = options.get("divisor_override") ?? null;
    const by = divisor === null ? 0 : whole("divisor_override", divisor, 1, MOST_OF_A_SIDE);
    const sizes = kernel.map((k, i) => dilation[i] * (k - 1) + 1);
    need(padding.every((p, i) => 2 * p <= kernel[i]), "padding must be at most half of a kernel");
    const side = (n, i) => {
      const room = n + 2 * padding[i] - sizes[i];
      let made = (ceil ? Math.ceil : Math.floor)(room / stride[i]) + 1;
      // The last box must begin inside.
      if (ceil && (made - 1) * stride[i] >= n + padding[i]) made -= 1;
      return made;
    };
    const boxes = (n, made, i) =>
      Array.from({ length: made }, (_, k) => {
        const start = k * stride[i] - padding[i];
        const end = Math.min(start + sizes[i], n + padding[i]);
        const skipped = Math.ceil(Math.max(0, -start) / dilation[i]) * dilation[i];
        const inside = { from: start + skipped, to: Math.min(end, n), by: dilation[i] };
        return { ...inside, wide: end - start };
      });
    const share = (down, along) => {
      if (by) return by;
      if (borders) return down.wide * along.wide;
      return (down.to - down.from) * (along.to - along.from);
    };
    const take = averages ? average(share) : maximum;
    return {
      fits([given]) {
        const [c, h, w] = images(given);
        const made = [h, w].map(side);
        need(made.every((n) => n > 0), "operations do not fit: a pool is larger than its images");
        return [c, ...made];
      },
      work: (made) => product(made) * product(kernel),
      run: ([given], made) => {
        const both = [0, 1].map((i) => boxes(given.shape[i + 1], made[i + 1], i));
        return pooled(given, made, both, take);
      },
    };
  }

  function adaptive(name, options) {
    object("options", options, ["output_size"]);
    const given = options.get("output_size");
    const two = Array.isArray(given) ? list("output_size", given, 2) : [given, given];
    const sizes = two.map((k) =>
      k === null && Array.isArray(given) ? null : whole("output_size", k, 1, MOST_OF_A_SIDE),
    );
    const boxes = (n, made) =>
      Array.from({ length: made }, (_, k) => ({
        from: Math.floor((k * n) / made),
        to: Math.ceil(((k + 1) * n) / made),
        by: 1,
      }));
    const share = (down, along) => (down.to - down.from) * (along.to - along.from);
    const take = name === "adaptive_avg_pool2d" ? average(share) : maximum;
    return {
      fits([sides]) {
        const [c, h, w] = images(sides);
        return [c, sizes[0] ?? h, sizes[1] ?? w];
      },
      work: (made) => product(made),
      run: ([value], made) => {
        const both = [0, 1].map((i) => boxes(value.shape[i + 1], made[i + 1]));
        return pooled(value, made, both, take);
      },
    };
  }

  function added(options) {
    object("options", options, []);
    return {
      takes: 2,
      fits([a, b]) {
        const fit =
          a.length === b.length && a.every((n, i) => n === b[i] || n === 1 || b[i] === 1);
        need(fit, `operations do not fit: [${a}] and [${b}] are to be added`);
        return a.map((n, i) => (n === 1 ? b[i] : n));
      },
      work: product,
      run([a, b], made) {
        const found = new Float32Array(product(made));
        const at = new Array(made.length).fill(0);
        for (let i = 0; i < found.length; i++) {
          let [p, q] = [0, 0];
          for (let side = 0; side < made.length; side++) {
            p = p * a.shape[side] + (a.shape[side] === 1 ? 0 : at[side]);
            q = q * b.shape[side] + (b.shape[side] === 1 ? 0 : at[side]);
          }
          found[i] = a.data[p] + b.data[q];
          for (let side = made.length - 1; side >= 0; side--) {
            if (++at[side] < made[side]) break;
            at[side] = 0;
          }
        }
        return found;
      },
    };
  }

  function flattened(options) {
    object("options", options, []);
    return { fits: ([given]) => [product(given)], work: () => 0, run: ([{ data }]) => data };
  }

  function meaned(options) {
    const dim = object("options", options, ["dim"]).get("dim");
    const both = Array.isArray(dim) && dim.length === 2 && dim[0] === 2n && dim[1] === 3n;
    need(both, "mean must be over dim [2, 3]");
    return {
      fits: ([given]) => images(given).slice(0, 1),
      work: product,
      run([{ shape: [c, h, w], data }]) {
        const size = h * w;
        return Float32Array.from({ length: c }, (_, k) => {
          let sum = 0;
          for (let i = k * size; i < (k + 1) * size; i++) sum += data[i];
          return Math.fround(sum) / size;
        });
      },
    };
  }

  const PLAIN = {
    add: (_, options) => added(options),
    flatten: (_, options) => flattened(options),
    mean: (_, options) => meaned(options),
    max_pool2d: moving,
    avg_pool2d: moving,
    adaptive_avg_pool2d: adaptive,
    adaptive_max_pool2d: adaptive,
  };

  function operationOf(about, arrays, most) {
    if (about.has("bits")) return affine(about, arrays, most);
    if (arrays.has("staircase") || about.has("uniform")) return steps(about, arrays);
    const name = about.get("name");
    const known = typeof name === "string" && Object.hasOwn(PLAIN, name);
    need(known, `there is no operation ${shown(name)}`);
    const options = about.has("options") ? about.get("options") : new Map();
    return { name, ...PLAIN[name](name, object("options", options)) };
  }

  function classesOf(told, outputs) {
    if (told === undefined || told === null) return null;
    const many = Math.max(2, outputs);
    if (typeof told === "bigint") {
      const count = whole("classes", told, 2, 2 * outputs);
      need(count === many, `classes must be ${many}, got ${count}`);
      return Array.from({ length: many }, (_, k) => k);
    }
    const labels = list("classes", told);
    if (labels.length === 0) return null;
    list("classes", told, many);
    const edge = 2n ** 63n;
    const counts = labels.every((k) => typeof k === "bigint" && -edge <= k && k < edge);
    const kind = counts || labels.every((k) => typeof k === "string");
    need(kind, "classes must be whole numbers, or all of them text");
    const names = counts ? labels.map(exact) : labels.map((name) => name.replace(/\0+$/, ""));
    need(new Set(names).size === names.length, "classes must be different");
    return names;
  }

  function operated(description, arrays, most) {
    const sides = list("shape", description.get("shape"));
    const shape = sides.map((side) => whole("shape", side, 1, MOST_NUMBERS));
    const room = shape.length > 0 && product(shape) <= most;
    need(room, `there is no network of inputs [${shape}]`);
    const given = list("operations", description.get("operations"));
    need(given.length > 0, "there must be an operation at least");
    const shapes = [shape];
    let work = 0;
    const made = given.map((told, i) => {
      const about = object("an operation", told);
      const named = about.has("inputs") ? list("inputs", about.get("inputs")) : [BigInt(i)];
      const inputs = named.map((k) => whole("inputs", k, 0, i));
      const operation = operationOf(about, partOf(arrays, String(i)), most);
      list("inputs", inputs, operation.takes ?? 1);
      shapes.push(operation.fits(inputs.map((k) => shapes[k])));
      const size = product(shapes[i + 1]);
      need(size <= most, `operations must make no more than ${most} numbers`);
      work += operation.work(shapes[i + 1]);
      return { operation, inputs };
    });
    const final = shapes[shapes.length - 1];
    const last = made[made.length - 1];
    need(final.length === 1, "operations must end in rows of outputs");
    need(last.operation.outputs !== undefined, "the last operation must be a layer of weights");
    const classes = classesOf(description.get("classes"), last.operation.outputs);
    const lastUse = new Array(shapes.length).fill(-1);
    made.forEach(({ inputs }, i) => inputs.forEach((k) => (lastUse[k] = i)));
    const run = (x, until) => {
      const values = [{ shape, data: x }];
      for (let i = 0; i < until; i++) {
        const { operation, inputs } = made[i];
        const data = operation.run(inputs.map((k) => values[k]), shapes[i + 1]);
        values.push({ shape: shapes[i + 1], data });
        inputs.forEach((k) => lastUse[k] === i && until === made.length && (values[k] = null));
      }
      return values;
    };
    return {
      kind: "operations",
      scales: false,
      shape,
      operations: made.map(({ operation }) => operation.name),
      weights: made.filter((m) => m.operation.weights).map((m) => m.operation.weights),
      classes,
      work,
      checked: (x) => Float32Array.from(numbers(x, shape, (v) => Number.isFinite(Math.fround(v)))),
      features: (x) => run(x, made.length - 1)[last.inputs[0]].data,
      outputs: (x) => run(x, made.length)[made.length].data,
    };
  }

  // ---- What is given to a network, and what it answers.

  function numbers(x, shape, fits) {
    const size = product(shape);
    const flat = x && typeof x === "object" && x.length === size ? Array.from(x) : [];
    if (flat.length !== size) {
      throw new TypeError(`x must be ${size} numbers, ${shape.join(" x ")}, in one list`);
    }
    if (!flat.every((v) => typeof v === "number" && fits(v))) {
      throw new RangeError("x must be finite numbers, none of them too large: scale it");
    }
    return Float64Array.from(flat);
  }

  // Of equals the first.
  function largest(scores) {
    let best = 0;
    scores.forEach((score, k) => {
      if (score > scores[best]) best = k;
    });
    return best;
  }

  function read(content, { most = MOST_NUMBERS } = {}) {
    const bytes = content instanceof ArrayBuffer ? new Uint8Array(content) : content;
    if (!(bytes instanceof Uint8Array)) {
      throw new TypeError("content must be a Uint8Array or an ArrayBuffer");
    }
    const { description, arrays } = unpack(bytes);
    const room = Math.min(most, MOST_NUMBERS);
    const found = (description.has("operations") ? operated : layered)(description, arrays, room);
    const { checked, features, outputs } = found;
    const given = (x) => outputs(checked(x));
    return Object.freeze({
      ...found,
      checked: undefined,
      size: bytes.length,
      weightCount: found.weights.reduce((sum, codes) => sum + codes.length, 0),
      features: (x) => features(checked(x)),
      outputs: given,
      predict(x) {
        const scores = given(x);
        if (found.classes === null) return scores.length === 1 ? scores[0] : scores;
        return found.classes[largest(scores.length === 1 ? [0, scores[0]] : scores)];
      },
    });
  }

  return Object.freeze({ read, FileError, drawTernary, inflate, sha256, largest, VERSION });
})();

if (typeof module !== "undefined") module.exports = ntklc;
