/* Files that ntklc_helpers saves, read and run in C99: networks of either kind, in floats.

       ntklc_arena room = {memory, sizeof memory, 0};
       ntklc_network net;
       const char *reason = ntklc_read(file, size, &room, &net);
       int place = reason ? -1 : ntklc_predict(&net, x, &room);

   Nothing is allocated: what is read stays in the caller's arena, and `file` must stay where it is.
   A file that is cut off, changed or something else is refused with a reason, and nothing outside
   of it is read. `x` are the network's inputs in float, finite; a place is that of the class among
   those of the file, from 0, and -1 says that the arena is too small.

   Files of strangers: what one asks for is bounded by the arena, by its own length and by the
   limits below. NTKLC_MOST_WORK is of products and comparisons for an input, and may be defined
   before this is included; net.work says how many there are. */
#ifndef NTKLC_READER_H
#define NTKLC_READER_H

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __FAST_MATH__
#error "the format fixes how numbers are rounded: compile this without -ffast-math"
#endif

#ifndef NTKLC_MOST_WORK
#define NTKLC_MOST_WORK ((uint64_t)1 << 34)
#endif

enum { NTKLC_MOST_STEPS = 256, NTKLC_MOST_SIDES = 8, NTKLC_MOST_OF_A_SIDE = 4096 };
enum { NTKLC_MOST_NUMBERS = 1 << 28, NTKLC_MOST_NEURONS = 1 << 20, NTKLC_MOST_LEVELS = 1 << 16 };
enum { NTKLC_MOST_TEXT = 1 << 18, NTKLC_MOST_DEPTH = 100, NTKLC_MOST_DIGITS = 400 };
enum { NTKLC_MOST_LABELS = 4096, NTKLC_MOST_WORDS = 42, NTKLC_MOST_CODES = 256 };
enum { NTKLC_LINEAR = 1, NTKLC_MOVED, NTKLC_STAIRS, NTKLC_ADDED, NTKLC_FLAT, NTKLC_LARGEST,
    NTKLC_MEAN };

typedef struct {
    void *memory;
    size_t size, used;
} ntklc_arena;

/* The sides of one sample. */
typedef struct {
    uint32_t count, side[NTKLC_MOST_SIDES];
} ntklc_shape;

/* One step: what it takes (0 is the input), what it makes, and its numbers. */
typedef struct {
    int kind, inputs[2];
    ntklc_shape shape;
    /* Of windows; adaptive ones follow from what is made. `divisor` is 0 for their own places. */
    uint32_t kernel[2], stride[2], padding[2], dilation[2], groups, divisor;
    int adaptive, borders;
    uint32_t rows, columns, levels;
    const int8_t *codes;
    const float *scale, *bias, *thresholds, *values;
    /* Of a layer of signs: thresholds, what it passes on, and the bounds of its sums,
       (threshold - (offset + lift * r + raise * r)) / gain + tie, r the sum of a row's signs. */
    const double *bounds, *steps;
    const float *offset;
    double factor, gain, lift, raise, tie;
} ntklc_step;

typedef struct {
    ntklc_step steps[NTKLC_MOST_STEPS];
    ntklc_shape shape;
    uint32_t count, inputs, outputs, classes;
    uint64_t work;
    int signs, single;
    const double *centre, *spread, *readout, *readout_bias;
} ntklc_network;

/* The format rounds after each operation. A product that is added to something is written down
   first, so that no compiler makes one operation of both; so is what is to be a float. The x87
   holds doubles in more digits, and is told not to while a network is read or run. */
static inline double ntklc_times(double a, double b) {
    volatile double product = a * b;
    return product;
}

static inline float ntklc_rounded(double x) {
    volatile float found = (float)x;
    return found;
}

#if defined(FLT_EVAL_METHOD) && (FLT_EVAL_METHOD == 0 || FLT_EVAL_METHOD == 1)
enum { NTKLC_DOUBLES = 0, NTKLC_ALL_DIGITS = 0 };
static inline unsigned ntklc_digits_of(unsigned wanted) { return wanted; }
#elif defined(__GNUC__) && (defined(__i386__) || defined(__x86_64__))
enum { NTKLC_DOUBLES = 0x200, NTKLC_ALL_DIGITS = 0x300 };
/* Sets what results are rounded to; what it was. */
static inline unsigned ntklc_digits_of(unsigned wanted) {
    uint16_t had, set;
    __asm__ volatile("fnstcw %0" : "=m"(had));
    set = (uint16_t)((had & ~0x300u) | wanted);
    __asm__ volatile("fldcw %0" : : "m"(set) : "memory");
    return had & 0x300u;
}
#else
#error "the format rounds to doubles after each operation, which this machine does not: see float.h"
#endif

/* The whole number nearest to one of size below 2^31, of two the even one. */
static inline double ntklc_nearest(double x) {
    double size = x < 0 ? -x : x, rest;
    int64_t whole = (int64_t)size;
    rest = size - (double)whole;
    if (rest > 0.5 || (rest == 0.5 && whole % 2)) whole++;
    return (double)(x < 0 ? -whole : whole);
}

/* Room of the arena for so many numbers of so many bytes; NULL if there is none. */
static inline void *ntklc_room(ntklc_arena *a, uint64_t count, size_t size) {
    size_t at = a->used + (size_t)(-((uintptr_t)a->memory + a->used) & 7);
    if (at > a->size || count > (a->size - at) / size) return NULL;
    a->used = at + (size_t)count * size;
    return (uint8_t *)a->memory + at;
}

static inline uint32_t ntklc_u32(const uint8_t *b) {
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* SHA-256 (FIPS 180-4) of `size` bytes, of which 16 from `blank` on count as the digit 0. */
static inline uint32_t ntklc_turned(uint32_t x, int n) { return x >> n | x << (32 - n); }

static inline void ntklc_sha256(const uint8_t *data, size_t size, size_t blank, uint8_t out[32]) {
    static const uint32_t k[64] = {
        0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4,
        0xab1c5ed5, 0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe,
        0x9bdc06a7, 0xc19bf174, 0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f,
        0x4a7484aa, 0x5cb0a9dc, 0x76f988da, 0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7,
        0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967, 0x27b70a85, 0x2e1b2138, 0x4d2c6dfc,
        0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85, 0xa2bfe8a1, 0xa81a664b,
        0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070, 0x19a4c116,
        0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
        0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7,
        0xc67178f2};
    uint32_t h[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                     0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    uint64_t total = ((uint64_t)size + 9 + 63) / 64, block;
    uint32_t i;
    for (block = 0; block < total; block++) {
        uint32_t w[64], s[8];
        for (i = 0; i < 64; i++) {
            uint64_t at = 64 * block + i;
            uint32_t byte = 0;
            if (at < size) byte = at >= blank && at < blank + 16 ? '0' : data[at];
            else if (at == size) byte = 0x80;
            else if (at >= 64 * total - 8) byte = ((uint64_t)size * 8 >> 8 * (64 * total - 1 - at))
                & 0xFF;
            if (i % 4 == 0) w[i / 4] = 0;
            w[i / 4] |= byte << 8 * (3 - i % 4);
        }
        for (i = 16; i < 64; i++) {
            uint32_t a = w[i - 15], b = w[i - 2];
            a = ntklc_turned(a, 7) ^ ntklc_turned(a, 18) ^ a >> 3;
            b = ntklc_turned(b, 17) ^ ntklc_turned(b, 19) ^ b >> 10;
            w[i] = w[i - 16] + a + w[i - 7] + b;
        }
        memcpy(s, h, sizeof s);
        for (i = 0; i < 64; i++) {
            uint32_t e = s[4], a = s[0], one, two;
            one = ntklc_turned(e, 6) ^ ntklc_turned(e, 11) ^ ntklc_turned(e, 25);
            one += s[7] + ((e & s[5]) ^ (~e & s[6])) + k[i] + w[i];
            two = ntklc_turned(a, 2) ^ ntklc_turned(a, 13) ^ ntklc_turned(a, 22);
            two += (a & s[1]) ^ (a & s[2]) ^ (s[1] & s[2]);
            memmove(s + 1, s, 7 * sizeof *s);
            s[4] += one;
            s[0] = one + two;
        }
        for (i = 0; i < 8; i++) h[i] += s[i];
    }
    for (i = 0; i < 32; i++) out[i] = (uint8_t)(h[i / 4] >> 8 * (3 - i % 4));
}

/* DEFLATE (RFC 1951). */
typedef struct {
    const uint8_t *in;
    size_t size, at, length, most;
    uint8_t *out;
    uint32_t hold, bits;
    int failed;
} ntklc_inflater;

typedef struct {
    uint16_t count[16], symbol[288];
} ntklc_codes;

static inline uint32_t ntklc_take(ntklc_inflater *f, uint32_t n) {
    uint32_t found;
    while (f->bits < n) {
        if (f->at == f->size) {
            f->failed = 1;
            return 0;
        }
        f->hold |= (uint32_t)f->in[f->at++] << f->bits;
        f->bits += 8;
    }
    found = f->hold & ((1u << n) - 1);
    f->hold >>= n;
    f->bits -= n;
    return found;
}

/* Whether the lengths are those of a code that leaves nothing unused; where `few`, it may have no
   symbol, or one of a single bit. */
static inline int ntklc_coded(ntklc_codes *c, const uint8_t *lengths, uint32_t n, int few) {
    uint16_t starts[16];
    int32_t left = 1;
    uint32_t i, used;
    memset(c->count, 0, sizeof c->count);
    for (i = 0; i < n; i++) c->count[lengths[i]]++;
    used = n - c->count[0];
    starts[1] = 0;
    for (i = 1; i < 16; i++) {
        left = 2 * left - c->count[i];
        if (left < 0) return 0;
        if (i < 15) starts[i + 1] = (uint16_t)(starts[i] + c->count[i]);
    }
    for (i = 0; i < n; i++) {
        if (lengths[i]) c->symbol[starts[lengths[i]]++] = (uint16_t)i;
    }
    c->count[0] = 0;
    return !left || (few && used == c->count[1] && used < 2);
}

static inline uint32_t ntklc_symbol(ntklc_inflater *f, const ntklc_codes *c) {
    int32_t code = 0, first = 0, index = 0;
    uint32_t length;
    for (length = 1; length < 16 && !f->failed; length++) {
        code |= (int32_t)ntklc_take(f, 1);
        if (code - c->count[length] < first) return c->symbol[index + code - first];
        index += c->count[length];
        first = (first + c->count[length]) << 1;
        code <<= 1;
    }
    f->failed = 1;
    return 0;
}

static inline void ntklc_block(ntklc_inflater *f, const ntklc_codes *all, const ntklc_codes *far) {
    static const uint16_t base[29] = {3,  4,  5,  6,  7,  8,  9,  10, 11,  13,  15,  17,  19,  23,
        27,
                                      31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258};
    static const uint16_t start[30] = {1,   2,   3,   4,   5,   7,    9,    13,   17,   25,
                                       33,  49,  65,  97,  129, 193,  257,  385,  513,  769,
                                       1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385,
                                           24577};
    while (!f->failed) {
        uint32_t symbol = ntklc_symbol(f, all), length, back;
        if (f->failed || symbol == 256) return;
        if (symbol < 256) {
            if (f->length == f->most) f->failed = 1;
            else f->out[f->length++] = (uint8_t)symbol;
            continue;
        }
        symbol -= 257;
        if (symbol > 28) break;
        length = base[symbol];
        if (symbol < 28 && symbol > 7) length += ntklc_take(f, symbol / 4 - 1);
        symbol = ntklc_symbol(f, far);
        if (f->failed || symbol > 29) break;
        back = start[symbol] + (symbol > 3 ? ntklc_take(f, symbol / 2 - 1) : 0);
        if (f->failed || back > f->length || length > f->most - f->length) break;
        for (; length; length--, f->length++) f->out[f->length] = f->out[f->length - back];
    }
    f->failed = 1;
}

static inline void ntklc_own_codes(ntklc_inflater *f, ntklc_codes *all, ntklc_codes *far) {
    static const uint8_t order[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1,
        15};
    uint32_t n = ntklc_take(f, 5) + 257, m = ntklc_take(f, 5) + 1, k = ntklc_take(f, 4) + 4, i;
    uint8_t lengths[320] = {0};
    if (n > 286 || m > 30) f->failed = 1;
    for (i = 0; i < k; i++) lengths[order[i]] = (uint8_t)ntklc_take(f, 3);
    if (f->failed || !ntklc_coded(all, lengths, 19, 0)) f->failed = 1;
    memset(lengths, 0, sizeof lengths);
    for (i = 0; i < n + m && !f->failed;) {
        uint32_t symbol = ntklc_symbol(f, all), again = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol > 15) {
            value = symbol == 16 && i ? lengths[i - 1] : 0;
            if (symbol == 16 && !i) f->failed = 1;
            again = symbol == 16 ? 3 + ntklc_take(f, 2)
                  : symbol == 17 ? 3 + ntklc_take(f, 3) : 11 + ntklc_take(f, 7);
        }
        if (again > n + m - i) f->failed = 1;
        for (; again && !f->failed; again--) lengths[i++] = value;
    }
    if (f->failed || !lengths[256] || !ntklc_coded(all, lengths, n, 1) ||
        !ntklc_coded(far, lengths + n, m, 1)) f->failed = 1;
}

static inline void ntklc_fixed_codes(ntklc_codes *all, ntklc_codes *far) {
    uint8_t lengths[288];
    uint32_t i;
    for (i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    ntklc_coded(all, lengths, 288, 0);
    memset(lengths, 5, 30);
    ntklc_coded(far, lengths, 30, 0);
}

/* Whether all of it, and nothing behind it, is a stream. */
static inline int ntklc_inflate(ntklc_inflater *f) {
    ntklc_codes all, far;
    uint32_t last = 0;
    while (!last && !f->failed) {
        uint32_t kind;
        last = ntklc_take(f, 1);
        kind = ntklc_take(f, 2);
        if (kind == 0) {
            uint32_t length;
            f->hold = f->bits = 0;
            if (f->size - f->at < 4) return 0;
            length = f->in[f->at] | (uint32_t)f->in[f->at + 1] << 8;
            if ((length ^ 0xFFFF) != (f->in[f->at + 2] | (uint32_t)f->in[f->at + 3] << 8)) return 0;
            f->at += 4;
            if (length > f->size - f->at || length > f->most - f->length) return 0;
            memcpy(f->out + f->length, f->in + f->at, length);
            f->at += length;
            f->length += length;
            continue;
        }
        if (kind == 1) ntklc_fixed_codes(&all, &far);
        else if (kind == 2) ntklc_own_codes(f, &all, &far);
        else f->failed = 1;
        if (!f->failed) ntklc_block(f, &all, &far);
    }
    return !f->failed && f->at == f->size;
}

/* JSON, first gone through as a whole; after that what is asked for is sought in it. The text ends
   with a zero. */
static inline const char *ntklc_blank(const char *p) {
    while (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r') p++;
    return p;
}

/* The number of four hexadecimal digits; -1 if these are none. */
static inline int32_t ntklc_hex(const char *p) {
    int32_t found = 0;
    int i;
    for (i = 0; i < 4; i++, p++) {
        int32_t digit = *p >= '0' && *p <= '9' ? *p - '0'
            : *p >= 'a' && *p <= 'f' ? *p - 'a' + 10 : *p >= 'A' && *p <= 'F' ? *p - 'A' + 10 : -1;
        if (digit < 0) return -1;
        found = found << 4 | digit;
    }
    return found;
}

/* The next character of a text in UTF-8, behind which `p` moves; -1 at the closing quote, and -2
   where there is no character. */
static inline int32_t ntklc_letter(const char **p) {
    static const char escapes[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const uint8_t *q = (const uint8_t *)*p;
    int32_t found = *q++, more, i;
    if (found == '"') return -1;
    if (found < 0x20) return -2;
    if (found == '\\' && *q == 'u') {
        found = ntklc_hex((const char *)++q);
        if (found < 0) return -2;
        q += 4;
        if (found >> 10 == 0x36 && q[0] == '\\' && q[1] == 'u') {
            int32_t low = ntklc_hex((const char *)q + 2);
            if (low >= 0 && low >> 10 == 0x37) {
                found = 0x10000 + ((found & 0x3FF) << 10) + (low & 0x3FF);
                q += 6;
            }
        }
    } else if (found == '\\') {
        const char *at = *q ? strchr(escapes, *q) : NULL;
        if (!at) return -2;
        found = meant[at - escapes];
        q++;
    } else if (found >= 0x80) {
        more = found >= 0xF0 ? 3 : found >= 0xE0 ? 2 : 1;
        if (found < 0xC2 || found > 0xF4) return -2;
        found &= 0x3F >> more;
        for (i = 0; i < more; i++, q++) {
            if ((*q & 0xC0) != 0x80) return -2;
            found = found << 6 | (*q & 0x3F);
        }
        /* No longer than need be, no half of a pair, and none beyond the last. */
        if ((more == 2 && found < 0x800) || (more == 3 && found < 0x10000) || found > 0x10FFFF ||
            found >> 11 == 0x1B) return -2;
    }
    *p = (const char *)q;
    return found;
}

static inline const char *ntklc_string(const char *p) {
    int32_t letter;
    if (*p++ != '"') return NULL;
    do letter = ntklc_letter(&p);
    while (letter >= 0);
    return letter == -1 ? p + 1 : NULL;
}

/* Whether two texts are the same. `end` is what follows a text's end: -1, or 0 where zeros there do
   not count. */
static inline int ntklc_same(const char *p, const char *q, int32_t end) {
    int32_t a, b;
    p++, q++;
    do {
        a = ntklc_letter(&p), b = ntklc_letter(&q);
        if (a < 0 && b < 0) return 1;
    } while ((a < 0 ? end : a) == (b < 0 ? end : b));
    return 0;
}

/* A text's hash (FNV-1a), zeros left out. */
static inline uint64_t ntklc_hash(const char *p) {
    uint64_t found = 0xcbf29ce484222325u;
    int32_t letter;
    for (p++; (letter = ntklc_letter(&p)) >= 0;) {
        if (letter) found = (found ^ (uint64_t)letter) * 0x100000001b3u;
    }
    return found;
}

static inline const char *ntklc_number_end(const char *p) {
    const char *start = p += *p == '-';
    while (*p >= '0' && *p <= '9') p++;
    if (p == start || (*start == '0' && p > start + 1)) return NULL;
    if (*p == '.') {
        for (start = ++p; *p >= '0' && *p <= '9';) p++;
        if (p == start) return NULL;
    }
    if (*p == 'e' || *p == 'E') {
        p += p[1] == '+' || p[1] == '-' ? 2 : 1;
        for (start = p; *p >= '0' && *p <= '9';) p++;
        if (p == start) return NULL;
    }
    return p;
}

/* Behind a value; NULL if there is none. */
static inline const char *ntklc_value(const char *p, int depth) {
    char open = *p, close = open == '{' ? '}' : ']';
    if (open == '"') return ntklc_string(p);
    if (!strncmp(p, "true", 4) || !strncmp(p, "null", 4)) return p + 4;
    if (!strncmp(p, "false", 5)) return p + 5;
    if (open != '{' && open != '[') return ntklc_number_end(p);
    if (!depth) return NULL;
    p = ntklc_blank(p + 1);
    if (*p == close) return p + 1;
    for (;;) {
        if (open == '{') {
            p = ntklc_string(p);
            if (!p) return NULL;
            p = ntklc_blank(p);
            if (*p != ':') return NULL;
            p = ntklc_blank(p + 1);
        }
        p = ntklc_value(p, depth - 1);
        if (!p) return NULL;
        p = ntklc_blank(p);
        if (*p == close) return p + 1;
        if (*p != ',') return NULL;
        p = ntklc_blank(p + 1);
    }
}

/* Whether `size` bytes, and a zero behind them, are one object. */
static inline const char *ntklc_object(const char *text, size_t size) {
    const char *start = ntklc_blank(text), *end;
    if (strlen(text) != size || *start != '{') return NULL;
    end = ntklc_value(start, NTKLC_MOST_DEPTH);
    return end && !*ntklc_blank(end) ? start : NULL;
}

/* Whether a text stands there. */
static inline int ntklc_is(const char *p, const char *word) {
    if (!p || *p++ != '"') return 0;
    for (; *word; word++) {
        if (ntklc_letter(&p) != *word) return 0;
    }
    return *p == '"';
}

/* The first of a list's values, or what comes behind one of them; NULL at the end. */
static inline const char *ntklc_first(const char *p) {
    if (!p || *p != '[') return NULL;
    p = ntklc_blank(p + 1);
    return *p == ']' ? NULL : p;
}

static inline const char *ntklc_after(const char *p) {
    p = ntklc_blank(ntklc_value(p, NTKLC_MOST_DEPTH));
    return *p == ',' ? ntklc_blank(p + 1) : NULL;
}

/* An object's first name; the value behind a name. */
static inline const char *ntklc_names(const char *p) {
    if (!p || *p != '{') return NULL;
    p = ntklc_blank(p + 1);
    return *p == '}' ? NULL : p;
}

static inline const char *ntklc_named(const char *p) {
    return ntklc_blank(ntklc_blank(ntklc_string(p)) + 1);
}

/* The value that an object has by a name, the last of several; NULL if it has none. */
static inline const char *ntklc_member(const char *p, const char *name) {
    const char *found = NULL;
    for (p = ntklc_names(p); p; p = ntklc_after(ntklc_named(p))) {
        if (ntklc_is(p, name)) found = ntklc_named(p);
    }
    return found;
}

/* Whether it is an object, and all that it has is by names in a list, a blank on both sides. */
static inline int ntklc_only(const char *p, const char *names) {
    if (!p || *p != '{') return 0;
    for (p = ntklc_names(p); p; p = ntklc_after(ntklc_named(p))) {
        const char *q = p + 1;
        char word[32] = " ";
        int32_t letter, n = 1;
        while ((letter = ntklc_letter(&q)) >= 0) {
            if (letter <= ' ' || letter > 0x7E || n == 30) return 0;
            word[n++] = (char)letter;
        }
        word[n] = ' ';
        if (!strstr(names, word)) return 0;
    }
    return 1;
}

static inline int ntklc_number(const char *p, double *found) {
    const char *end = NULL;
    char text[NTKLC_MOST_DIGITS + 1], *point, *stop;
    unsigned had;
    size_t n;
    if (!p || (*p != '-' && (*p < '0' || *p > '9')) || !(end = ntklc_number_end(p))) return 0;
    n = (size_t)(end - p);
    if (n > NTKLC_MOST_DIGITS) return 0;
    memcpy(text, p, n);
    text[n] = 0;
    /* strtod reads the point that the program's locale has, and counts on the digits it is used
       to. */
    point = strchr(text, '.');
    if (point) *point = *localeconv()->decimal_point;
    had = ntklc_digits_of(NTKLC_ALL_DIGITS);
    *found = strtod(text, &stop);
    ntklc_digits_of(had);
    return stop == text + n && *found - *found == 0;
}

/* A whole number between two; whether there is one. */
static inline int ntklc_whole(const char *p, int64_t least, int64_t most, int64_t *found) {
    uint64_t n = 0, limit = INT64_MAX;
    const char *q = p;
    if (!p || (*p != '-' && (*p < '0' || *p > '9'))) return 0;
    limit += *p == '-';
    for (q += *q == '-'; *q >= '0' && *q <= '9'; q++) {
        uint64_t digit = (uint64_t)(*q - '0');
        if (n > (limit - digit) / 10) return 0;
        n = 10 * n + digit;
    }
    if (*q == '.' || *q == 'e' || *q == 'E') return 0;
    *found = *p != '-' ? (int64_t)n : n ? -(int64_t)(n - 1) - 1 : 0;
    return *found >= least && *found <= most;
}

/* A whole number of at least 0 in base 2^32, the lowest digit first: how many digits; 0 if it is
   none, or is written in too many. */
static inline uint32_t ntklc_words(const char *p, uint32_t words[NTKLC_MOST_WORDS]) {
    uint32_t n = 0, i, read = 0;
    int minus = p && *p == '-';
    if (!p || p[minus] < '0' || p[minus] > '9') return 0;
    for (p += minus; *p >= '0' && *p <= '9'; p++) {
        uint64_t carry = (uint64_t)(*p - '0');
        if (++read > NTKLC_MOST_DIGITS) return 0;
        for (i = 0; i < n; i++) {
            carry += (uint64_t)words[i] * 10;
            words[i] = (uint32_t)carry;
            carry >>= 32;
        }
        if (carry) words[n++] = (uint32_t)carry;
    }
    if (*p == '.' || *p == 'e' || *p == 'E' || (minus && n)) return 0;
    if (!n) words[n++] = 0;
    return n;
}

/* A file: its description, and the arrays that this lists, one behind the other. */
typedef struct {
    const char *name;
    const uint8_t *data;
    uint64_t hash, count, shape[2];
    uint32_t dims;
    char kind[3];
} ntklc_array;

typedef struct {
    const char *about;
    const ntklc_array *arrays;
    uint64_t count;
} ntklc_file;

/* One entry of the list; whether it is one, and lies within so many bytes. */
static inline int ntklc_entry(const char *p, size_t left, ntklc_array *a, uint64_t *bytes) {
    static const char kinds[] = "u1i1u2i2u4i4i8f2f4f8";
    const char *kind, *q;
    int64_t side;
    uint64_t size = 0;
    int i, none = 0;
    a->name = p = ntklc_first(p);
    kind = p && *p == '"' ? ntklc_after(p) : NULL;
    if (!kind) return 0;
    for (i = 0; kinds[i] && !size; i += 2) {
        memcpy(a->kind, kinds + i, 2);
        a->kind[2] = 0;
        if (ntklc_is(kind, a->kind)) size = (uint64_t)(kinds[i + 1] - '0');
    }
    if (!size) return 0;
    a->hash = ntklc_hash(p);
    a->count = 1;
    a->dims = 0;
    for (q = ntklc_after(kind); q; q = ntklc_after(q), a->dims++) {
        if (a->dims == 32 || !ntklc_whole(q, 0, (int64_t)left, &side)) return 0;
        if (a->dims < 2) a->shape[a->dims] = (uint64_t)side;
        none |= !side;
        /* What is too much stays so, unless there is nothing of it. */
        if (side && a->count <= left) a->count *= (uint64_t)side;
    }
    if (none) a->count = 0;
    if (a->count > left / size) return 0;
    *bytes = a->count * size;
    return 1;
}

/* Write down the list; NULL, or why it is none. */
static inline const char *ntklc_listed(
    ntklc_file *f, const uint8_t *at, size_t left, ntklc_arena *room) {
    const char *list = ntklc_member(f->about, "arrays"), *p;
    ntklc_array *found;
    uint64_t i, bytes;
    if (!list || *list != '[') return "it lists no arrays";
    for (p = ntklc_first(list); p; p = ntklc_after(p)) f->count++;
    f->arrays = found = (ntklc_array *)ntklc_room(room, f->count, sizeof *found);
    if (!found) return "it needs more room";
    for (p = ntklc_first(list); p; p = ntklc_after(p), found++) {
        if (!ntklc_entry(p, left, found, &bytes)) return "its arrays";
        for (i = 0; f->arrays + i < found; i++) {
            if (f->arrays[i].hash == found->hash && ntklc_same(f->arrays[i].name, found->name, -1))
                return "arrays of one name";
        }
        found->data = at;
        at += bytes;
        left -= (size_t)bytes;
    }
    return left ? "there is more than its arrays" : NULL;
}

/* The array "part.name", "n.name" where there is no part; whether there is one. */
static inline int ntklc_find(
    const ntklc_file *f, int64_t n, const char *part, const char *name, ntklc_array *a) {
    char wanted[64] = "", digits[20];
    uint64_t i;
    int k = 20;
    if (part) strcpy(wanted, part);
    else {
        digits[--k] = 0;
        do digits[--k] = (char)('0' + n % 10);
        while (n /= 10);
        strcpy(wanted, digits + k);
    }
    strcat(strcat(wanted, "."), name);
    for (i = 0; i < f->count; i++) {
        if (!ntklc_is(f->arrays[i].name, wanted)) continue;
        *a = f->arrays[i];
        return 1;
    }
    return 0;
}

static inline float ntklc_single(const uint8_t *b) {
    uint32_t bits = ntklc_u32(b);
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

static inline double ntklc_double(const uint8_t *b) {
    uint64_t bits = ntklc_u32(b) | (uint64_t)ntklc_u32(b + 4) << 32;
    double value;
    memcpy(&value, &bits, 8);
    return value;
}

/* Half a number (IEEE 754) times 2^unit. */
static inline double ntklc_half(const uint8_t *b, int64_t unit) {
    uint32_t bits = b[0] | (uint32_t)b[1] << 8, power = bits >> 10 & 31;
    double value = bits & 1023;
    if (power == 31) return HUGE_VAL;
    if (power) value += 1024;
    unit += power ? (int64_t)power - 25 : -24;
    for (; unit > 0; unit--) value *= 2;
    for (; unit < 0; unit++) value /= 2;
    return bits >> 15 ? -value : value;
}

/* Ternary codes. */
static inline int ntklc_bit(const uint8_t *stream, uint64_t i) {
    return stream[i / 8] >> (7 - i % 8) & 1;
}

static inline int ntklc_zeros_from(const uint8_t *stream, uint64_t bits, uint64_t size) {
    for (; bits < 8 * size; bits++) {
        if (ntklc_bit(stream, bits)) return 0;
    }
    return 1;
}

typedef struct {
    const uint8_t *low, *signs, *unary;
    uint64_t low_size, signs_size, unary_size, k, count;
    int zeros;
} ntklc_packed;

/* Whether the streams are those of so many codes, which are written down. */
static inline int ntklc_unpack(const ntklc_packed *p, int8_t *codes, uint64_t total) {
    uint64_t events = 0, at = 0, next = 0, sign = 0, i, bit = 0;
    uint64_t signs = p->zeros ? total - p->count : p->count;
    if (p->count > total || p->low_size != (p->count * p->k + 7) / 8 ||
        p->signs_size != (signs + 7) / 8 ||
        !ntklc_zeros_from(p->low, p->count * p->k, p->low_size) ||
        !ntklc_zeros_from(p->signs, signs, p->signs_size)) return 0;
    for (events = 0; events <= p->count; events++) {
        uint64_t gap = 0;
        if (events < p->count) {
            while (bit < 8 * p->unary_size && !ntklc_bit(p->unary, bit)) bit++, gap++;
            if (bit++ >= 8 * p->unary_size || gap > total >> p->k) return 0;
            for (i = 0; i < p->k; i++) gap = gap << 1 | (uint64_t)ntklc_bit(p->low, at++);
            if (gap > total || next + gap + (p->count - events) > total) return 0;
        } else gap = total - next;
        for (i = 0; i < gap; i++) {
            codes[next++] = p->zeros ? (int8_t)(ntklc_bit(p->signs, sign++) ? -1 : 1) : 0;
        }
        if (events < p->count) {
            codes[next++] = p->zeros ? 0 : (int8_t)(ntklc_bit(p->signs, sign++) ? -1 : 1);
        }
    }
    return p->unary_size == (bit + 7) / 8 && ntklc_zeros_from(p->unary, bit, p->unary_size);
}

/* numpy's SeedSequence and PCG64, numbers of 128 bits as four of 32, the lowest first. */
static inline void ntklc_step_128(uint32_t state[4], const uint32_t inc[4]) {
    static const uint32_t by[4] = {0x9FCCF645u, 0x4385DF64u, 0x1FC65DA4u, 0x2360ED05u};
    uint32_t next[4], i, j;
    memcpy(next, inc, sizeof next);
    for (i = 0; i < 4; i++) {
        uint64_t carry = 0;
        for (j = 0; i + j < 4; j++) {
            carry += (uint64_t)state[i] * by[j] + next[i + j];
            next[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    memcpy(state, next, sizeof next);
}

static inline uint32_t ntklc_hashed(uint32_t value, uint32_t *by, uint32_t multiplier) {
    value ^= *by;
    *by *= multiplier;
    value *= *by;
    return value ^ value >> 16;
}

static inline void ntklc_mix(uint32_t *into, uint32_t hashed) {
    uint32_t mixed = 0xca01f9ddu * *into - 0x4973f715u * hashed;
    *into = mixed ^ mixed >> 16;
}

static inline void ntklc_seeded(const uint32_t *words, uint32_t n, uint32_t state[4],
    uint32_t inc[4]) {
    uint32_t pool[4], made[8], by = 0x43b0d7e5u, i, j, carry;
    for (i = 0; i < 4; i++) pool[i] = ntklc_hashed(i < n ? words[i] : 0, &by, 0x931e8875u);
    for (i = 0; i < 4; i++) {
        for (j = 0; j < 4; j++) {
            if (i != j) ntklc_mix(pool + j, ntklc_hashed(pool[i], &by, 0x931e8875u));
        }
    }
    for (i = 4; i < n; i++) {
        for (j = 0; j < 4; j++) ntklc_mix(pool + j, ntklc_hashed(words[i], &by, 0x931e8875u));
    }
    by = 0x8b51f9ddu;
    for (i = 0; i < 8; i++) made[i] = ntklc_hashed(pool[i % 4], &by, 0x58f38dedu);
    /* The first of two numbers of 64 bits is the higher half. */
    for (i = 0; i < 4; i++) {
        inc[i] = made[4 + (i ^ 2)];
        state[i] = 0;
    }
    for (i = 4; i-- > 1;) inc[i] = inc[i] << 1 | inc[i - 1] >> 31;
    inc[0] = inc[0] << 1 | 1;
    ntklc_step_128(state, inc);
    for (i = 0, carry = 0; i < 4; i++) {
        uint64_t sum = (uint64_t)state[i] + made[i ^ 2] + carry;
        state[i] = (uint32_t)sum;
        carry = (uint32_t)(sum >> 32);
    }
    ntklc_step_128(state, inc);
}

static inline void ntklc_draw(
    int8_t *codes, uint64_t total, double sparsity, const uint32_t *words, uint32_t n) {
    uint32_t state[4], inc[4], least = (uint32_t)ntklc_nearest(sparsity * 2147483648.0);
    uint32_t halves[2] = {0, 0};
    uint64_t i;
    ntklc_seeded(words, n, state, inc);
    for (i = 0; i < total; i++) {
        if (i % 2 == 0) {
            uint32_t turn;
            uint64_t word;
            ntklc_step_128(state, inc);
            word = (uint64_t)(state[3] ^ state[1]) << 32 | (state[2] ^ state[0]);
            turn = state[3] >> 26;
            word = word >> turn | word << (-turn & 63u);
            halves[0] = (uint32_t)word;
            halves[1] = (uint32_t)(word >> 32);
        }
        codes[i] = halves[i % 2] >> 1 < least ? 0 : halves[i % 2] & 1 ? 1 : -1;
    }
}

/* Networks of layers of signs. */
static inline const double *ntklc_doubles(
    const ntklc_file *f, ntklc_arena *room, int64_t n, const char *part, const char *name,
    uint64_t *count) {
    ntklc_array a;
    double *found;
    uint64_t i;
    if (!ntklc_find(f, n, part, name, &a) || a.dims != 1 || strcmp(a.kind, "f8")) return NULL;
    found = (double *)ntklc_room(room, a.count, sizeof *found);
    for (i = 0; found && i < a.count; i++) {
        found[i] = ntklc_double(a.data + 8 * i);
        if (found[i] - found[i] != 0) return NULL;
    }
    *count = a.count;
    return found;
}

/* How many bounds, which increase, lie below x; below what is no number lies none. */
static inline uint32_t ntklc_passed(float x, const float *bounds, uint32_t count) {
    uint32_t low = 0, high = count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (x > bounds[middle]) low = middle + 1;
        else high = middle;
    }
    return low;
}

/* The different levels, increasing; how many, or 0 if they are more than a grid has codes. */
static inline uint32_t ntklc_different(const double *levels, uint32_t n,
    double found[NTKLC_MOST_CODES]) {
    uint32_t count = 0, i;
    for (i = 0; i < n; i++) {
        uint32_t low = 0, high = count;
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (levels[i] > found[middle]) low = middle + 1;
            else high = middle;
        }
        if (low < count && found[low] == levels[i]) continue;
        if (count == NTKLC_MOST_CODES) return 0;
        memmove(found + low + 1, found + low, (count - low) * sizeof *found);
        found[low] = levels[i];
        count++;
    }
    return count;
}

/* Of levels on a grid, what is passed on in their place, `middle` less than their codes; whether
   they are on one. */
static inline int ntklc_grid(const double *levels, uint32_t n, double *passed, double *base,
    double *unit, double *middle) {
    double different[NTKLC_MOST_CODES], reach, first, low, high;
    uint32_t count = ntklc_different(levels, n, different), i;
    if (count < 2) return 0;
    *unit = different[1] - different[0];
    for (i = 2; i < count; i++) {
        double apart = different[i] - different[i - 1];
        if (apart < *unit) *unit = apart;
    }
    reach = different[count - 1] - different[0];
    for (*base = 0, i = 0; i < n; i++) {
        double code = (levels[i] - different[0]) / *unit;
        if (!(code < NTKLC_MOST_CODES - 0.5)) return 0;
        passed[i] = ntklc_nearest(code);
        *base += levels[i] - ntklc_times(*unit, passed[i]);
    }
    *base /= n;
    for (i = 0; i < n; i++) {
        double off = *base + ntklc_times(*unit, passed[i]) - levels[i];
        if (!((off < 0 ? -off : off) <= ntklc_times(1e-12, reach))) return 0;
    }
    first = 2 * *base / *unit;
    first = first > -1024 && first < 1024 ? ntklc_nearest(first) / 2 : 1024;
    if (first >= -NTKLC_MOST_CODES && first <= NTKLC_MOST_CODES) {
        double off = ntklc_times(first, *unit) - *base;
        if ((off < 0 ? -off : off) <= ntklc_times(1e-9, *unit)) *base = 0;
        else first = 0;
    } else first = 0;
    low = high = passed[0] + first;
    for (i = 0; i < n; i++) {
        passed[i] += first;
        if (passed[i] < low) low = passed[i];
        if (passed[i] > high) high = passed[i];
    }
    *middle = low + (double)((int32_t)(high - low + 1) / 2);
    for (i = 0; i < n; i++) passed[i] -= *middle;
    return 1;
}

static inline const char *ntklc_signs_of(
    const ntklc_file *f, const char *about, int64_t n, int8_t *codes, uint64_t total) {
    const char *drawn = ntklc_member(about, "drawn"), *packed = ntklc_member(about, "packed"), *p;
    ntklc_array low, signs, unary;
    ntklc_packed all;
    int64_t k, count;
    if (drawn ? !ntklc_only(drawn, " sparsity seed stream ")
              : !ntklc_only(packed, " codes_zeros rice_bits count ")) return "its weights";
    if (drawn) {
        uint32_t words[2 * NTKLC_MOST_WORDS], first, second = 0;
        double sparsity;
        first = ntklc_words(ntklc_member(drawn, "seed"), words);
        if (first) second = ntklc_words(ntklc_member(drawn, "stream"), words + first);
        if (!second || !ntklc_number(ntklc_member(drawn, "sparsity"), &sparsity) || sparsity < 0 ||
            sparsity >= 1) return "its seed";
        ntklc_draw(codes, total, sparsity, words, first + second);
        return NULL;
    }
    p = ntklc_member(packed, "codes_zeros");
    if (!p || (*p != 't' && *p != 'f') ||
        !ntklc_whole(ntklc_member(packed, "rice_bits"), 0, 30, &k) ||
        !ntklc_whole(ntklc_member(packed, "count"), 0, (int64_t)total, &count) ||
        !ntklc_find(f, n, NULL, "low", &low) || !ntklc_find(f, n, NULL, "signs", &signs) ||
        !ntklc_find(f, n, NULL, "unary", &unary) || strcmp(low.kind, "u1") ||
        strcmp(signs.kind, "u1") || strcmp(unary.kind, "u1") || low.dims != 1 ||
        signs.dims != 1 || unary.dims != 1) return "its packed weights";
    all.low = low.data, all.signs = signs.data, all.unary = unary.data;
    all.low_size = low.count, all.signs_size = signs.count, all.unary_size = unary.count;
    all.k = (uint64_t)k, all.count = (uint64_t)count, all.zeros = *p == 't';
    return ntklc_unpack(&all, codes, total) ? NULL : "its packed weights";
}

/* What a layer's sums are of, and how their bounds follow from thresholds. */
static inline const char *ntklc_behind(ntklc_step *s, ntklc_step *before, ntklc_arena *room) {
    double base, unit, middle, *passed;
    s->gain = s->factor;
    if (!before) return NULL;
    passed = (double *)ntklc_room(room, before->levels, sizeof *passed);
    if (!passed) return "it needs more room";
    if (!ntklc_grid(before->steps, before->levels, passed, &base, &unit, &middle)) return NULL;
    before->steps = passed;
    s->gain = ntklc_times(s->factor, unit);
    s->lift = ntklc_times(s->factor, base);
    s->raise = ntklc_times(s->gain, middle);
    /* What is whole but for rounding is a tie, and a tie does not exceed. */
    s->tie = 1e-9;
    return NULL;
}

static inline const char *ntklc_layer_of(
    const ntklc_file *f, const char *about, int64_t n, ntklc_arena *room, ntklc_network *net) {
    ntklc_step *s = net->steps + n;
    const char *p = ntklc_first(ntklc_member(about, "shape")), *q = p ? ntklc_after(p) : NULL;
    const char *wrong;
    float *values;
    int8_t *codes;
    int64_t rows, columns;
    uint64_t t = 0, m = 0, i;
    ntklc_array a;
    if (!ntklc_whole(p, 1, NTKLC_MOST_NEURONS, &rows) ||
        !ntklc_whole(q, 1, NTKLC_MOST_NEURONS, &columns) || ntklc_after(q) ||
        (n && (uint32_t)columns != s[-1].rows)) return "a shape";
    if (!ntklc_number(ntklc_member(about, "scale"), &s->factor) || s->factor <= 0) return "a scale";
    s->rows = (uint32_t)rows, s->columns = (uint32_t)columns;
    s->bounds = ntklc_doubles(f, room, n, NULL, "thresholds", &t);
    s->steps = ntklc_doubles(f, room, n, NULL, "levels", &m);
    if (!s->bounds || !s->steps || m < 2 || m != t + 1 || m > NTKLC_MOST_LEVELS ||
        (uint64_t)rows * (uint64_t)(columns > (int64_t)m ? columns : (int64_t)m)
            > NTKLC_MOST_NUMBERS) return "thresholds and levels, or it needs more room";
    for (i = 1; i < t; i++) {
        if (s->bounds[i] <= s->bounds[i - 1]) return "thresholds and levels";
    }
    s->levels = (uint32_t)m;
    wrong = ntklc_behind(s, n ? s - 1 : NULL, room);
    if (wrong) return wrong;
    if (ntklc_find(f, n, NULL, "offset", &a)) {
        if (a.dims != 1 || a.count != (uint64_t)rows || strcmp(a.kind, "f4")) return "an offset";
        s->offset = values = (float *)ntklc_room(room, a.count, sizeof *values);
        if (!values) return "it needs more room";
        for (i = 0; i < a.count; i++) {
            values[i] = ntklc_single(a.data + 4 * i);
            if (values[i] - values[i] != 0) return "an offset";
        }
    }
    net->work += (uint64_t)rows * ((uint64_t)columns + 32);
    s->codes = codes = (int8_t *)ntklc_room(room, (uint64_t)rows * (uint64_t)columns, 1);
    if (!codes) return "it needs more room";
    return ntklc_signs_of(f, about, n, codes, (uint64_t)rows * (uint64_t)columns);
}

/* A number of a readout: f8, f4, f2, i1. */
static inline double ntklc_element(const ntklc_array *a, uint64_t i) {
    if (*a->kind == 'i') return (int8_t)a->data[i];
    switch (a->kind[1]) {
    case '8': return ntklc_double(a->data + 8 * i);
    case '4': return ntklc_single(a->data + 4 * i);
    default: return ntklc_half(a->data + 2 * i, 0);
    }
}

static inline int ntklc_labelled(const ntklc_array *classes, uint64_t n) {
    uint64_t i;
    if (classes->shape[0] != n) return 0;
    if (!strcmp(classes->kind, "i8")) return classes->dims == 1;
    if (strcmp(classes->kind, "u4") || classes->dims != 2) return 0;
    for (i = 0; i < classes->count; i++) {
        if (ntklc_u32(classes->data + 4 * i) > 0x10FFFF) return 0;
    }
    return 1;
}

static inline const char *ntklc_readout_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    ntklc_array weights, scale, bias, classes;
    uint64_t n, i, j;
    double *W, *b;
    if (!ntklc_find(f, 0, "readout", "weights", &weights) ||
        !ntklc_find(f, 0, "readout", "scale", &scale) ||
        !ntklc_find(f, 0, "readout", "bias", &bias) ||
        !ntklc_find(f, 0, "readout", "classes", &classes)) return "it has no readout";
    if (!classes.count) return "its outputs are values";
    n = weights.dims == 2 ? weights.shape[1] : 0;
    if (!n || weights.shape[0] != net->steps[net->count - 1].rows || scale.dims != 1 ||
        bias.dims != 1 || scale.count != n || bias.count != n || strcmp(scale.kind, bias.kind) ||
        scale.kind[0] != 'f' || scale.kind[1] < '4' || !ntklc_labelled(&classes, n) ||
        !(weights.kind[0] == 'f' ? weights.kind[1] < '8' : !strcmp(weights.kind, "i1"))) {
        return "its readout";
    }
    net->single = scale.kind[1] == '4';
    W = (double *)ntklc_room(room, weights.count, sizeof *W);
    b = (double *)ntklc_room(room, n, sizeof *b);
    if (!W || !b) return "it needs more room";
    for (i = 0; i < weights.shape[0]; i++) {
        for (j = 0; j < n; j++) {
            double w = ntklc_times(ntklc_element(&weights, i * n + j), ntklc_element(&scale, j));
            if (net->single) w = ntklc_rounded(w);
            if (w - w != 0) return "its readout";
            W[i * n + j] = w;
        }
    }
    for (j = 0; j < n; j++) {
        b[j] = ntklc_element(&bias, j);
        if (b[j] - b[j] != 0) return "its readout";
    }
    net->readout = W, net->readout_bias = b;
    net->outputs = net->classes = (uint32_t)n;
    net->work += weights.count;
    return NULL;
}

static inline const char *ntklc_scaling_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    uint64_t i, many = 0, other = 0;
    for (i = 0; i < f->count; i++) {
        const char *p = f->arrays[i].name + 1, *part = "scaling";
        while (*part && ntklc_letter(&p) == *part) part++;
        many += !*part && (*p == '"' || ntklc_letter(&p) == '.');
    }
    if (!many) return NULL;
    net->centre = ntklc_doubles(f, room, 0, "scaling", "centre", &i);
    net->spread = ntklc_doubles(f, room, 0, "scaling", "scale", &other);
    if (many != 2 || !net->centre || !net->spread || i != other || i != net->inputs) {
        return "its scaling, or it needs more room";
    }
    while (i--) {
        if (net->spread[i] <= 0) return "its scaling";
    }
    return NULL;
}

static inline const char *ntklc_layers_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    const char *p = ntklc_first(ntklc_member(f->about, "layers")), *wrong = NULL;
    for (; p && !wrong; p = ntklc_after(p), net->count++) {
        if (net->count == NTKLC_MOST_STEPS) return "it has too many layers";
        wrong = ntklc_layer_of(f, p, net->count, room, net);
    }
    if (!net->count) return "it has no layers";
    net->signs = 1;
    net->inputs = net->steps[0].columns;
    net->shape.count = 1;
    net->shape.side[0] = net->inputs;
    if (!wrong) wrong = ntklc_readout_of(f, room, net);
    return wrong ? wrong : ntklc_scaling_of(f, room, net);
}

/* Networks that are lists of operations. */
static inline int ntklc_two(const char *p, int64_t least, uint32_t out[2]) {
    const char *q = ntklc_first(p), *r = q ? ntklc_after(q) : NULL;
    int64_t one, two;
    if (!ntklc_whole(q, least, NTKLC_MOST_OF_A_SIDE, &one) ||
        !ntklc_whole(r, least, NTKLC_MOST_OF_A_SIDE, &two) || ntklc_after(r)) return 0;
    out[0] = (uint32_t)one, out[1] = (uint32_t)two;
    return 1;
}

/* A pool's: a number, or a list of one or two; as it was if nothing is told. */
static inline int ntklc_pair(const char *p, int64_t least, uint32_t out[2]) {
    const char *q = ntklc_first(p);
    int64_t one;
    if (!p) return 1;
    if (q && ntklc_after(q)) return ntklc_two(p, least, out);
    if (!ntklc_whole(q ? q : p, least, NTKLC_MOST_OF_A_SIDE, &one)) return 0;
    out[0] = out[1] = (uint32_t)one;
    return 1;
}

static inline int ntklc_truth(const char *p, int *out) {
    if (!p) return 1;
    *out = *p == 't';
    return *p == 't' || *p == 'f';
}

static inline const char *ntklc_window_of(const char *about, ntklc_step *s) {
    static const char *const names[3] = {"stride", "padding", "dilation"};
    uint32_t *const parts[3] = {s->stride, s->padding, s->dilation};
    int64_t groups = 1;
    int i;
    if (!ntklc_only(about, " stride padding dilation groups ")) return "a window";
    for (i = 0; i < 3; i++) {
        const char *p = ntklc_member(about, names[i]);
        if (p && !ntklc_two(p, i != 1, parts[i])) return "a window";
    }
    if (ntklc_member(about, "groups") &&
        !ntklc_whole(ntklc_member(about, "groups"), 1, NTKLC_MOST_NUMBERS, &groups)) {
        return "a window";
    }
    s->groups = (uint32_t)groups;
    return NULL;
}

/* Codes of which it is told where they are not 0, and their signs; with a width, their sizes too. */
static inline const char *ntklc_placed_of(const char *told, const ntklc_array *stream,
    uint64_t width, int8_t *codes, uint64_t total) {
    static const char *const wrong = "its packed codes";
    const char *p = ntklc_first(told), *next;
    int64_t k, count;
    uint64_t nonzeros, sizes, at = 0, i, j;
    ntklc_packed all;
    const uint8_t *middle;
    if (!p || (*p != 't' && *p != 'f') || !(next = ntklc_after(p)) ||
        !ntklc_whole(next, 0, 30, &k) || !(next = ntklc_after(next)) ||
        !ntklc_whole(next, 0, (int64_t)total, &count) || ntklc_after(next)) return wrong;
    all.zeros = *p == 't', all.k = (uint64_t)k, all.count = (uint64_t)count;
    nonzeros = all.zeros ? total - all.count : all.count;
    all.low_size = (all.k * all.count + 7) / 8;
    all.signs_size = (nonzeros + 7) / 8;
    sizes = (nonzeros * width + 7) / 8;
    if (all.low_size > stream->count || all.signs_size > stream->count - all.low_size ||
        sizes > stream->count - all.low_size - all.signs_size) return wrong;
    all.unary_size = stream->count - all.low_size - all.signs_size - sizes;
    all.low = stream->data, all.signs = all.low + all.low_size;
    middle = all.signs + all.signs_size;
    all.unary = middle + sizes;
    if (!ntklc_unpack(&all, codes, total)) return wrong;
    if (!width) return NULL;
    if (!ntklc_zeros_from(middle, nonzeros * width, sizes)) return wrong;
    for (i = 0; i < total; i++) {
        int32_t size = 1;
        if (!codes[i]) continue;
        for (j = 0; j < width; j++) size += ntklc_bit(middle, at++) << j;
        if (codes[i] > 0 && size >> width) return wrong;
        codes[i] = (int8_t)(codes[i] > 0 ? size : -size);
    }
    return NULL;
}

static inline const char *ntklc_codes_of(
    const char *about, const ntklc_array *stream, int8_t *codes, uint64_t total) {
    const char *bits = ntklc_member(about, "bits"), *packed = ntklc_member(about, "packed");
    int64_t n;
    uint64_t i, j;
    if (ntklc_is(bits, "ternary")) return ntklc_placed_of(packed, stream, 0, codes, total);
    if (!ntklc_whole(bits, 2, 8, &n) || (n > 4 && n < 8)) return "its codes";
    if (packed) return ntklc_placed_of(packed, stream, (uint64_t)n - 1, codes, total);
    if (stream->count != ((uint64_t)n * total + 7) / 8 ||
        !ntklc_zeros_from(stream->data, (uint64_t)n * total, stream->count)) return "its codes";
    for (i = 0; i < total; i++) {
        int32_t code = 0;
        for (j = 0; j < (uint64_t)n; j++) code |= ntklc_bit(stream->data, i * (uint64_t)n + j) << j;
        codes[i] = (int8_t)(code - (1 << (n - 1)));
    }
    return NULL;
}

static inline const char *ntklc_affine_of(
    const ntklc_file *f, const char *about, int64_t n, ntklc_arena *room, ntklc_step *s) {
    const char *p = ntklc_first(ntklc_member(about, "shape")), *wrong;
    const char *window = ntklc_member(about, "window");
    uint64_t total = 1, columns = 1, i;
    int64_t side, units[2] = {0, 0};
    ntklc_array rows, stream;
    int8_t *codes;
    float *numbers;
    int dims = 0;
    for (; p; p = ntklc_after(p), dims++) {
        if (dims == 4 || !ntklc_whole(p, 1, NTKLC_MOST_NUMBERS, &side)) return "a shape";
        total *= (uint64_t)side;
        if (total >= NTKLC_MOST_NUMBERS) return "a shape";
        if (dims) columns *= (uint64_t)side;
        else s->rows = (uint32_t)side;
        if (dims > 1) s->kernel[dims - 2] = (uint32_t)side;
    }
    if (dims != (window ? 4 : 2)) return "a shape";
    s->kind = window ? NTKLC_MOVED : NTKLC_LINEAR;
    s->columns = (uint32_t)columns;
    if (window && (wrong = ntklc_window_of(window, s))) return wrong;
    if (!ntklc_find(f, n, NULL, "rows", &rows) || !ntklc_find(f, n, NULL, "codes", &stream) ||
        strcmp(stream.kind, "u1") || stream.dims != 1 || rows.dims != 2 || rows.shape[0] != 2 ||
        rows.shape[1] != s->rows || (strcmp(rows.kind, "f2") && strcmp(rows.kind, "f4"))) {
        return "its numbers";
    }
    if (rows.kind[1] == '2') {
        const char *q = ntklc_first(ntklc_member(about, "units"));
        if (!q || !ntklc_whole(q, -112, 112, units) || !(q = ntklc_after(q)) ||
            !ntklc_whole(q, -112, 112, units + 1) || ntklc_after(q)) return "its units";
    }
    s->scale = numbers = (float *)ntklc_room(room, rows.count, sizeof *numbers);
    s->codes = codes = (int8_t *)ntklc_room(room, total, 1);
    if (!numbers || !codes) return "it needs more room";
    for (i = 0; i < rows.count; i++) {
        if (rows.kind[1] == '4') numbers[i] = ntklc_single(rows.data + 4 * i);
        else numbers[i] = ntklc_rounded(ntklc_half(rows.data + 2 * i, units[i / s->rows]));
        if (numbers[i] - numbers[i] != 0) return "its scales and biases";
    }
    s->bias = s->scale + s->rows;
    return ntklc_codes_of(about, &stream, codes, total);
}

static inline const char *ntklc_stairs_of(
    const ntklc_file *f, const char *about, int64_t n, ntklc_arena *room, ntklc_step *s) {
    const char *uniform = ntklc_member(about, "uniform"), *p = ntklc_first(uniform);
    double grid[4] = {0, 0, 0, 0};
    float *thresholds, *values;
    ntklc_array a;
    int64_t m = 0, i;
    int k;
    s->kind = NTKLC_STAIRS;
    if (uniform) {
        if (!ntklc_whole(p, 2, NTKLC_MOST_LEVELS, &m)) return "a staircase";
        for (k = 0; k < 4; k++) {
            p = ntklc_after(p);
            if (!p || !ntklc_number(p, grid + k)) return "a staircase";
        }
        if (ntklc_after(p)) return "a staircase";
    } else {
        if (!ntklc_find(f, n, NULL, "staircase", &a) || strcmp(a.kind, "f4") || a.dims != 1 ||
            a.count < 3 || a.count % 2 == 0 || a.count > 2 * NTKLC_MOST_LEVELS) {
            return "a staircase";
        }
        m = (int64_t)(a.count / 2 + 1);
    }
    thresholds = (float *)ntklc_room(room, (uint64_t)m - 1, sizeof *thresholds);
    values = (float *)ntklc_room(room, (uint64_t)m, sizeof *values);
    if (!thresholds || !values) return "it needs more room";
    for (i = 0; i < m; i++) {
        values[i] = uniform ? ntklc_rounded(grid[2] + ntklc_times(grid[3], (double)i))
            : ntklc_single(a.data + 4 * (i + m - 1));
        if (values[i] - values[i] != 0) return "a staircase";
        if (i == m - 1) break;
        thresholds[i] = uniform ? ntklc_rounded(grid[0] + ntklc_times(grid[1], (double)i))
            : ntklc_single(a.data + 4 * i);
        if (thresholds[i] - thresholds[i] != 0 || (i && thresholds[i] <= thresholds[i - 1])) {
            return "a staircase";
        }
    }
    s->thresholds = thresholds, s->values = values, s->levels = (uint32_t)m;
    return NULL;
}

/* Sizes of what an adaptive pool makes: a number, or two of which one that is null stays. */
static inline int ntklc_sizes(const char *p, const ntklc_shape *in, uint32_t out[2]) {
    const char *q = ntklc_first(p);
    int64_t size;
    int i;
    if (!p || *p != '[') return p && ntklc_pair(p, 1, out);
    for (i = 0; i < 2; i++, q = ntklc_after(q)) {
        if (q && *q == 'n') size = in->side[1 + i];
        else if (!ntklc_whole(q, 1, NTKLC_MOST_OF_A_SIDE, &size)) return 0;
        out[i] = (uint32_t)size;
    }
    return !q;
}

/* What a window makes of a side, 0 if nothing; with `ceil` its last one may reach beyond. */
static inline uint32_t ntklc_made(const ntklc_step *s, int i, uint32_t side, int ceil) {
    int64_t wide = (int64_t)side + 2 * (int64_t)s->padding[i], stride = s->stride[i], found;
    int64_t left = wide - (int64_t)s->dilation[i] * ((int64_t)s->kernel[i] - 1) - 1;
    if (left < 0) return ceil && left > -stride;
    found = (left + (ceil ? stride - 1 : 0)) / stride + 1;
    /* It must begin inside. */
    if (ceil && (found - 1) * stride >= (int64_t)side + s->padding[i]) found--;
    return (uint32_t)found;
}

static inline uint64_t ntklc_size(const ntklc_shape *shape) {
    uint64_t size = 1;
    uint32_t i;
    for (i = 0; i < shape->count; i++) size *= shape->side[i];
    return size;
}

static inline const char *ntklc_pool_of(
    const char *options, ntklc_step *s, const ntklc_shape *in) {
    const char *stride = ntklc_member(options, "stride"), *divisor;
    int64_t by = 0;
    int i, ceil = 0;
    if (!ntklc_only(options, s->kind == NTKLC_LARGEST
            ? " kernel_size stride padding dilation ceil_mode "
            : " kernel_size stride padding ceil_mode count_include_pad divisor_override ") ||
        !ntklc_member(options, "kernel_size") ||
        !ntklc_pair(ntklc_member(options, "kernel_size"), 1, s->kernel)) return "a pool";
    memcpy(s->stride, s->kernel, sizeof s->stride);
    s->borders = 1;
    divisor = ntklc_member(options, "divisor_override");
    if ((stride && *stride != 'n' && !ntklc_pair(stride, 1, s->stride)) ||
        !ntklc_pair(ntklc_member(options, "padding"), 0, s->padding) ||
        !ntklc_pair(ntklc_member(options, "dilation"), 1, s->dilation) ||
        !ntklc_truth(ntklc_member(options, "ceil_mode"), &ceil) ||
        !ntklc_truth(ntklc_member(options, "count_include_pad"), &s->borders) ||
        (divisor && *divisor != 'n' && !ntklc_whole(divisor, 1, NTKLC_MOST_OF_A_SIDE, &by))) {
        return "a pool";
    }
    s->divisor = (uint32_t)by;
    for (i = 0; i < 2; i++) {
        if (2 * s->padding[i] > s->kernel[i]) return "a pool";
        s->shape.side[1 + i] = ntklc_made(s, i, in->side[1 + i], ceil);
    }
    return NULL;
}

/* What has no numbers, and the shape of what it makes of one. */
static inline const char *ntklc_plain_of(const char *about, ntklc_step *s, const ntklc_shape *in) {
    const char *name = ntklc_member(about, "name"), *options = ntklc_member(about, "options");
    uint32_t both[2];
    int largest = ntklc_is(name, "max_pool2d"), most = ntklc_is(name, "adaptive_max_pool2d");
    s->shape = *in;
    if (!options) options = "{}";
    if (ntklc_is(name, "add") || ntklc_is(name, "flatten")) {
        s->kind = ntklc_is(name, "add") ? NTKLC_ADDED : NTKLC_FLAT;
        if (s->kind == NTKLC_FLAT) s->shape.count = 1, s->shape.side[0] = (uint32_t)ntklc_size(in);
        return ntklc_only(options, " ") ? NULL : "an option that is not known";
    }
    s->kind = largest || most ? NTKLC_LARGEST : NTKLC_MEAN;
    if (in->count != 3) return "an operation that is not known, or on no image";
    if (largest || ntklc_is(name, "avg_pool2d")) return ntklc_pool_of(options, s, in);
    s->adaptive = 1;
    if (ntklc_is(name, "mean")) {
        s->shape.count = 1;
        return ntklc_only(options, " dim ") && ntklc_two(ntklc_member(options, "dim"), 2, both) &&
            both[0] == 2 && both[1] == 3 ? NULL : "a mean";
    }
    if (!most && !ntklc_is(name, "adaptive_avg_pool2d")) return "an operation that is not known";
    return ntklc_only(options, " output_size ") &&
        ntklc_sizes(ntklc_member(options, "output_size"), in, s->shape.side + 1) ? NULL : "a pool";
}

/* The shape of what a layer makes, or a sum. */
static inline const char *ntklc_shaped(
    ntklc_step *s, const ntklc_shape *in, const ntklc_shape *other) {
    uint32_t i, last = in->count - 1;
    if (s->kind == NTKLC_STAIRS || s->kind == NTKLC_LINEAR) s->shape = *in;
    if (s->kind == NTKLC_LINEAR) {
        if (in->side[last] != s->columns) return "a layer that does not fit";
        s->shape.side[last] = s->rows;
    } else if (s->kind == NTKLC_MOVED) {
        s->shape.count = 3;
        if (in->count != 3 || s->rows % s->groups || (uint64_t)s->columns * s->groups !=
            (uint64_t)in->side[0] * s->kernel[0] * s->kernel[1]) return "a layer that does not fit";
        s->shape.side[0] = s->rows;
        for (i = 0; i < 2; i++) s->shape.side[1 + i] = ntklc_made(s, (int)i, in->side[1 + i], 0);
    } else if (s->kind == NTKLC_ADDED) {
        if (in->count != other->count) return "a sum of values that do not fit";
        for (i = 0; i <= last; i++) {
            if (in->side[i] == 1) s->shape.side[i] = other->side[i];
            else if (other->side[i] != 1 && other->side[i] != in->side[i]) {
                return "a sum of values that do not fit";
            }
        }
    }
    return NULL;
}

/* No more than this is done for a number that a step makes. */
static inline uint64_t ntklc_effort(const ntklc_step *s, const ntklc_shape *in) {
    uint64_t all = s->kind == NTKLC_MOVED ? in->side[0] / s->groups : 1;
    int i;
    if (s->kind == NTKLC_LINEAR) return s->columns;
    if (s->kind == NTKLC_STAIRS) return 16;
    if (s->kind == NTKLC_ADDED || s->kind == NTKLC_FLAT) return NTKLC_MOST_SIDES;
    for (i = 0; i < 2; i++) {
        uint32_t side = in->side[1 + i], made = s->shape.count > 1 ? s->shape.side[1 + i] : 1;
        uint32_t inside = s->adaptive ? side / made + 2 : (side - 1) / s->dilation[i] + 1;
        all *= s->adaptive || inside < s->kernel[i] ? inside : s->kernel[i];
    }
    return all;
}

static inline const char *ntklc_step_of(
    const ntklc_file *f, const char *about, uint32_t i, ntklc_arena *room, ntklc_network *net) {
    ntklc_step *s = net->steps + i;
    const ntklc_shape *in[2];
    const char *told = ntklc_member(about, "inputs"), *p = ntklc_first(told), *wrong;
    ntklc_array a;
    uint64_t size = 1;
    int64_t k;
    uint32_t j;
    int n = 0;
    if (*about != '{') return "an operation";
    s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->groups = 1;
    s->inputs[0] = s->inputs[1] = (int)i;
    for (; p; p = ntklc_after(p), n++) {
        if (n == 2 || !ntklc_whole(p, 0, i, &k)) return "what an operation takes";
        s->inputs[n] = (int)k;
    }
    for (j = 0; j < 2; j++) {
        in[j] = s->inputs[j] ? &net->steps[s->inputs[j] - 1].shape : &net->shape;
    }
    if (ntklc_member(about, "bits")) wrong = ntklc_affine_of(f, about, i, room, s);
    else if (ntklc_member(about, "uniform") || ntklc_find(f, i, NULL, "staircase", &a)) {
        wrong = ntklc_stairs_of(f, about, i, room, s);
    } else wrong = ntklc_plain_of(about, s, in[0]);
    if (!wrong) wrong = ntklc_shaped(s, in[0], in[1]);
    if (wrong) return wrong;
    if ((told ? n : 1) != (s->kind == NTKLC_ADDED ? 2 : 1)) return "what an operation takes";
    for (j = 0; j < s->shape.count; j++) {
        size *= s->shape.side[j];
        if (!size) return "a window that is larger than its images";
        if (size > NTKLC_MOST_NUMBERS) return "an operation that makes too much";
    }
    net->work += size * ntklc_effort(s, in[0]);
    return NULL;
}

/* Whether there are so many labels, all texts or all whole numbers, and no two alike. */
static inline const char *ntklc_labels(const char *p, uint32_t count, ntklc_arena *room) {
    struct label { uint64_t number; const char *text; } *all;
    int text = p && *p == '"';
    uint32_t found = 0, i;
    int64_t number = 0;
    if (count > NTKLC_MOST_LABELS) return "it has too many classes";
    all = (struct label *)ntklc_room(room, count, sizeof *all);
    if (!all) return "it needs more room";
    for (; p; p = ntklc_after(p), found++) {
        if (found == count || (*p == '"') != text) return "its classes";
        if (!text && !ntklc_whole(p, INT64_MIN, INT64_MAX, &number)) return "its classes";
        all[found].number = text ? ntklc_hash(p) : (uint64_t)number;
        all[found].text = p;
        for (i = 0; i < found; i++) {
            if (all[i].number == all[found].number && (!text || ntklc_same(all[i].text, p, 0))) {
                return "classes that are alike";
            }
        }
    }
    return found == count ? NULL : "its classes";
}

static inline const char *ntklc_operations_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    const char *p = ntklc_first(ntklc_member(f->about, "shape")), *wrong;
    const ntklc_step *last;
    ntklc_arena left;
    uint64_t all = 1;
    int64_t side;
    for (; p; p = ntklc_after(p)) {
        if (net->shape.count == NTKLC_MOST_SIDES || !ntklc_whole(p, 1, NTKLC_MOST_NUMBERS, &side) ||
            (all *= (uint64_t)side) > NTKLC_MOST_NUMBERS) return "the inputs' shape";
        net->shape.side[net->shape.count++] = (uint32_t)side;
    }
    if (!net->shape.count) return "the inputs' shape";
    net->inputs = (uint32_t)all;
    p = ntklc_first(ntklc_member(f->about, "operations"));
    for (; p; p = ntklc_after(p), net->count++) {
        if (net->count == NTKLC_MOST_STEPS) return "it has too many operations";
        wrong = ntklc_step_of(f, p, net->count, room, net);
        if (wrong) return wrong;
    }
    if (!net->count) return "it has no operations";
    last = net->steps + net->count - 1;
    if (last->kind != NTKLC_LINEAR || last->shape.count != 1) return "its last operation";
    net->outputs = last->rows;
    net->classes = net->outputs > 1 ? net->outputs : 2;
    p = ntklc_member(f->about, "classes");
    if (!p || *p == 'n' || (*p == '[' && !ntklc_first(p))) return "its outputs are values";
    if (*p != '[') return ntklc_whole(p, net->classes, net->classes, &side) ? NULL : "its classes";
    left = *room;
    return ntklc_labels(ntklc_first(p), net->classes, &left);
}

/* Whether a header is as the format has it, over a body of so many bytes. */
static inline int ntklc_headed(const char *text, size_t length, int64_t size) {
    const char *p = ntklc_object(text, length), *note, *array, *q;
    int64_t end;
    note = ntklc_member(p, "__metadata__"), array = ntklc_member(p, "");
    /* What was looked at is what there is by that name. */
    if (!ntklc_only(p, " __metadata__  ") || ntklc_member(note, "ntklc") != text + 25) return 0;
    for (q = ntklc_names(note); q; q = ntklc_after(ntklc_named(q))) {
        if (*ntklc_named(q) != '"') return 0;
    }
    if (!ntklc_only(array, " dtype shape data_offsets ") ||
        !ntklc_is(ntklc_member(array, "dtype"), "U8")) return 0;
    q = ntklc_first(ntklc_member(array, "shape"));
    if (!ntklc_whole(q, size, size, &end) || ntklc_after(q)) return 0;
    q = ntklc_first(ntklc_member(array, "data_offsets"));
    return ntklc_whole(q, 0, 0, &end) && ntklc_whole(q = ntklc_after(q), size, size, &end) &&
        !ntklc_after(q);
}

/* NULL, or why a description is none, which is read into the arena. */
static inline const char *ntklc_described(
    const uint8_t *packed, size_t size, ntklc_arena *room, ntklc_file *f) {
    ntklc_inflater stream;
    memset(&stream, 0, sizeof stream);
    stream.in = packed, stream.size = size;
    /* What it needs is not known before: all the room there is, and then the rest. */
    if (room->size - room->used < 2) return "it needs more room";
    stream.most = room->size - room->used - 1;
    if (stream.most > NTKLC_MOST_TEXT) stream.most = NTKLC_MOST_TEXT;
    stream.out = (uint8_t *)room->memory + room->used;
    if (!ntklc_inflate(&stream)) return "damaged: its description, or it needs more room";
    stream.out[stream.length] = 0;
    room->used += stream.length + 1;
    f->about = ntklc_object((char *)stream.out, stream.length);
    return f->about ? NULL : "damaged: its description";
}

static inline const char *ntklc_read_all(
    const uint8_t *file, size_t size, ntklc_arena *room, ntklc_network *net) {
    static const char mark[] = "{\"__metadata__\":{\"ntklc\":\"", letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t at = 8 + sizeof mark - 1;
    uint8_t digest[32];
    const char *wrong;
    ntklc_file f;
    uint32_t head, told, i;
    char *text;
    memset(net, 0, sizeof *net);
    if (size < at + 19 || memcmp(file + 8, mark, at - 8))
        return "not a network, or its header is damaged";
    ntklc_sha256(file, size, at, digest);
    for (i = 0; i < 16; i++) {
        const uint8_t *three = digest + i / 4 * 3;
        uint32_t word = (uint32_t)three[0] << 16 | (uint32_t)three[1] << 8 | three[2];
        if (file[at + i] != (uint8_t)letters[word >> 6 * (3 - i % 4) & 63])
            return "damaged: it has another digest";
    }
    head = ntklc_u32(file);
    if (ntklc_u32(file + 4) || head < at + 11 || head > size - 8) return "damaged: its header";
    if (memcmp(file + at + 16, " 2\"", 3)) return "of another version";
    /* The header is looked at where the description will be. */
    if (head >= room->size - room->used) return "it needs more room";
    text = (char *)room->memory + room->used;
    memcpy(text, file + 8, head);
    text[head] = 0;
    file += 8 + head, size -= 8 + head;
    if (!ntklc_headed(text, head, (int64_t)size)) return "damaged: its header";
    told = size < 4 ? 0 : ntklc_u32(file);
    if (size < 4 || told > size - 4) return "damaged: its description";
    memset(&f, 0, sizeof f);
    wrong = ntklc_described(file + 4, told, room, &f);
    if (!wrong) wrong = ntklc_listed(&f, file + 4 + told, size - 4 - told, room);
    if (wrong) return wrong;
    wrong = ntklc_member(f.about, "operations") ? ntklc_operations_of(&f, room, net)
        : ntklc_layers_of(&f, room, net);
    if (!wrong && net->work > NTKLC_MOST_WORK) return "it takes too long to run";
    return wrong;
}

/* NULL, or why the file does not hold a network that classifies. */
static inline const char *ntklc_read(
    const uint8_t *file, size_t size, ntklc_arena *room, ntklc_network *net) {
    unsigned had = ntklc_digits_of(NTKLC_DOUBLES);
    const char *wrong = ntklc_read_all(file, size, room, net);
    ntklc_digits_of(had);
    return wrong;
}

/* Running. The inputs along one side that output `k` sees: from, up to, every so many-th; at which
   tap they begin, and how many places the window has. */
typedef struct {
    uint32_t from, to, by, tap, wide;
} ntklc_box;

static inline ntklc_box ntklc_box_of(
    const ntklc_step *s, int i, uint32_t k, const ntklc_shape *in) {
    int64_t side = in->side[1 + i], by = s->dilation[i], skipped, start, end, edge;
    ntklc_box box;
    if (s->adaptive) {
        int64_t made = s->shape.count > 1 ? s->shape.side[1 + i] : 1;
        box.from = (uint32_t)(k * side / made);
        box.to = (uint32_t)(((k + (int64_t)1) * side + made - 1) / made);
        box.by = 1, box.tap = 0, box.wide = box.to - box.from;
        return box;
    }
    start = (int64_t)k * s->stride[i] - s->padding[i];
    end = start + by * ((int64_t)s->kernel[i] - 1) + 1;
    edge = side + s->padding[i];
    box.wide = (uint32_t)((end < edge ? end : edge) - start);
    skipped = start < 0 ? (-start + by - 1) / by : 0;
    start += skipped * by;
    if (end > side) end = side;
    box.from = (uint32_t)start, box.to = (uint32_t)(end > start ? end : start);
    box.by = (uint32_t)by, box.tap = (uint32_t)skipped;
    return box;
}

/* The largest, or the sum, of one channel over two boxes; times codes, if there are any. */
static inline double ntklc_boxed(const float *x, uint64_t wide, ntklc_box down, ntklc_box along,
    const int8_t *codes, uint32_t width, int largest) {
    double found = largest ? -HUGE_VAL : 0;
    uint32_t y, z, i = down.tap;
    for (y = down.from; y < down.to; y += down.by, i++) {
        const float *line = x + y * wide;
        const int8_t *code = codes ? codes + (uint64_t)i * width + along.tap : NULL;
        for (z = along.from; z < along.to; z += along.by) {
            if (code) found += (double)line[z] * *code++;
            else if (!largest) found += line[z];
            else if (line[z] > found) found = line[z];
        }
    }
    return found;
}

/* Rounded after each operation, as in float32; the product with a code is exact. */
static inline float ntklc_settled(const ntklc_step *s, uint32_t row, double sum) {
    float scaled = ntklc_rounded((double)ntklc_rounded(sum) * s->scale[row]);
    return ntklc_rounded((double)scaled + s->bias[row]);
}

static inline void ntklc_run_window(const ntklc_step *s, const float *x, const ntklc_shape *in,
    float *out) {
    int layer = s->kind == NTKLC_MOVED, flat = s->shape.count == 1;
    uint32_t depth = layer ? in->side[0] / s->groups : 1, per = layer ? s->rows / s->groups : 1;
    uint32_t high = flat ? 1 : s->shape.side[1], across = flat ? 1 : s->shape.side[2], o, y, z, c;
    uint64_t wide = in->side[2], plane = in->side[1] * wide;
    uint64_t taps = (uint64_t)s->kernel[0] * s->kernel[1];
    for (o = 0; o < s->shape.side[0]; o++) {
        const float *first = x + (layer ? (uint64_t)(o / per) * depth : o) * plane;
        const int8_t *codes = layer ? s->codes + (uint64_t)o * s->columns : NULL;
        for (y = 0; y < high; y++) {
            ntklc_box down = ntklc_box_of(s, 0, y, in);
            for (z = 0; z < across; z++) {
                ntklc_box along = ntklc_box_of(s, 1, z, in);
                double places = s->divisor ? s->divisor : s->borders
                    ? (double)down.wide * along.wide
                    : (double)(down.to - down.from) * (along.to - along.from), sum = 0;
                if (!layer) sum = ntklc_boxed(first, wide, down, along, NULL, 0,
                    s->kind == NTKLC_LARGEST);
                for (c = 0; layer && c < depth; c++) {
                    sum += ntklc_boxed(first + c * plane, wide, down, along, codes + c * taps,
                        s->kernel[1], 0);
                }
                if (layer) *out++ = ntklc_settled(s, o, sum);
                else if (s->kind == NTKLC_LARGEST) *out++ = ntklc_rounded(sum);
                else *out++ = ntklc_rounded(ntklc_rounded(sum) / places);
            }
        }
    }
}

/* The sum of two values, sides of 1 repeated. */
static inline void ntklc_run_sum(const ntklc_shape *made, const float *x, const ntklc_shape *in,
    const float *other, const ntklc_shape *beside, float *out) {
    uint32_t at[NTKLC_MOST_SIDES] = {0}, k;
    uint64_t n = ntklc_size(made), i;
    for (i = 0; i < n; i++) {
        uint64_t p = 0, q = 0;
        for (k = 0; k < made->count; k++) {
            p = p * in->side[k] + (in->side[k] == 1 ? 0 : at[k]);
            q = q * beside->side[k] + (beside->side[k] == 1 ? 0 : at[k]);
        }
        out[i] = ntklc_rounded((double)x[p] + other[q]);
        for (k = made->count; k-- && ++at[k] == made->side[k];) at[k] = 0;
    }
}

static inline void ntklc_run_step(const ntklc_step *s, const float *x, const ntklc_shape *in,
    const float *other, const ntklc_shape *beside, float *out) {
    uint64_t n = ntklc_size(&s->shape), i, j;
    switch (s->kind) {
    case NTKLC_ADDED: ntklc_run_sum(&s->shape, x, in, other, beside, out); return;
    case NTKLC_FLAT: memcpy(out, x, n * sizeof *out); return;
    case NTKLC_STAIRS:
        for (i = 0; i < n; i++) {
            out[i] = s->values[ntklc_passed(x[i], s->thresholds, s->levels - 1)];
        }
        return;
    case NTKLC_LINEAR:
        for (i = 0; i < n; i++) {
            const float *given = x + i / s->rows * s->columns;
            uint32_t row = (uint32_t)(i % s->rows);
            const int8_t *codes = s->codes + (uint64_t)row * s->columns;
            double sum = 0;
            for (j = 0; j < s->columns; j++) sum += (double)codes[j] * given[j];
            out[i] = ntklc_settled(s, row, sum);
        }
        return;
    default: ntklc_run_window(s, x, in, out);
    }
}

static inline int ntklc_highest(const double *scores, uint32_t n) {
    uint32_t best = 0, k;
    for (k = 1; k < n; k++) {
        if (scores[k] > scores[best]) best = k;
    }
    return (int)best;
}

/* In the order that the format fixes: columns with +1 in fours, then those with -1; and the sum of
   the signs. */
static inline double ntklc_signed_sum(const int8_t *signs, const double *x, uint64_t n,
    int64_t *total) {
    double sum = 0, four[4];
    int sign;
    *total = 0;
    for (sign = 1; sign >= -1; sign -= 2) {
        uint32_t held = 0, i;
        uint64_t j;
        for (j = 0; j < n; j++) {
            if (signs[j] != sign) continue;
            *total += sign;
            four[held++] = x[j];
            if (held < 4) continue;
            sum += sign * (four[0] + four[1] + four[2] + four[3]);
            held = 0;
        }
        for (i = 0; i < held; i++) sum += sign * four[i];
    }
    return sum;
}

/* How many bounds of a row lie below its sum; they do not decrease. The format rounds them down
   where sums are whole, and those exceed the one where they exceed the other. */
static inline uint32_t ntklc_row(const ntklc_step *s, uint32_t row, const double *x) {
    const int8_t *signs = s->codes + (uint64_t)row * s->columns;
    int64_t total;
    double sum = ntklc_signed_sum(signs, x, s->columns, &total), shift;
    uint32_t low = 0, high = s->levels - 1;
    shift = (s->offset ? s->offset[row] : 0) + ntklc_times(s->lift, (double)total);
    shift += ntklc_times(s->raise, (double)total);
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (sum > (s->bounds[middle] - shift) / s->gain + s->tie) low = middle + 1;
        else high = middle;
    }
    return low;
}

static inline int ntklc_predict_signs(const ntklc_network *net, const float *given,
    ntklc_arena *room) {
    double *x = (double *)ntklc_room(room, net->inputs, sizeof *x), *y, *scores;
    uint64_t n = net->inputs, i, k;
    if (!x) return -1;
    for (i = 0; i < n; i++) {
        x[i] = net->centre ? (given[i] - net->centre[i]) / net->spread[i] : given[i];
    }
    for (k = 0; k < net->count; k++, x = y) {
        const ntklc_step *s = net->steps + k;
        uint32_t row;
        y = (double *)ntklc_room(room, s->rows, sizeof *y);
        if (!y) return -1;
        for (row = 0; row < s->rows; row++) {
            double found = s->steps[ntklc_row(s, row, x)];
            y[row] = k + 1 < net->count ? found : ntklc_rounded(found);
        }
    }
    n = net->steps[net->count - 1].rows;
    scores = (double *)ntklc_room(room, net->outputs, sizeof *scores);
    if (!scores) return -1;
    for (k = 0; k < net->outputs; k++) {
        scores[k] = 0;
        for (i = 0; i < n; i++) scores[k] += x[i] * net->readout[i * net->outputs + k];
        if (net->single) scores[k] = ntklc_rounded(scores[k]);
        scores[k] += net->readout_bias[k];
        if (net->single) scores[k] = ntklc_rounded(scores[k]);
    }
    return ntklc_highest(scores, net->outputs);
}

static inline int ntklc_predict_steps(const ntklc_network *net, const float *x,
    ntklc_arena *room) {
    const float *found[NTKLC_MOST_STEPS + 1];
    double *scores;
    uint32_t k, one = net->outputs == 1;
    found[0] = x;
    for (k = 0; k < net->count; k++) {
        const ntklc_step *s = net->steps + k;
        const ntklc_shape *in[2];
        float *out = (float *)ntklc_room(room, ntklc_size(&s->shape), sizeof *out);
        uint32_t j;
        if (!out) return -1;
        for (j = 0; j < 2; j++) {
            in[j] = s->inputs[j] ? &net->steps[s->inputs[j] - 1].shape : &net->shape;
        }
        ntklc_run_step(s, found[s->inputs[0]], in[0], found[s->inputs[1]], in[1], out);
        found[k + 1] = out;
    }
    scores = (double *)ntklc_room(room, net->classes, sizeof *scores);
    if (!scores) return -1;
    scores[0] = 0;
    for (k = 0; k < net->outputs; k++) scores[k + one] = found[net->count][k];
    return ntklc_highest(scores, net->classes);
}

/* The place of the class, from 0; -1 if the arena is too small. */
static inline int ntklc_predict(const ntklc_network *net, const float *x, ntklc_arena *room) {
    unsigned had = ntklc_digits_of(NTKLC_DOUBLES);
    ntklc_arena left = *room;
    int found = (net->signs ? ntklc_predict_signs : ntklc_predict_steps)(net, x, &left);
    ntklc_digits_of(had);
    return found;
}

#endif
