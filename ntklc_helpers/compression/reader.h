/* Files that ntklc_helpers saves, read and run in C99: networks of either kind, in floats.

       ntklc_arena room = {memory, sizeof memory, 0};
       ntklc_network net;
       const char *reason = ntklc_read(file, size, &room, &net);
       int place = reason ? -1 : ntklc_predict(&net, x, &room);

   Nothing is allocated: what is read stays in the caller's arena, and `file` must stay where it is.
   A file that is cut off, changed or something else is refused with a reason, and nothing outside
   of it is read. `x` are the network's inputs in float; a place is that of the class among those of
   the file, from 0, and -1 says that the arena is too small. Inputs must be
   finite, and how long a network takes is the file's to say: run none of strangers without a limit. */
#ifndef NTKLC_READER_H
#define NTKLC_READER_H

#include <locale.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    void *memory;
    size_t size, used;
} ntklc_arena;

enum { NTKLC_MOST_STEPS = 256, NTKLC_MOST_TEXT = 1 << 18, NTKLC_MOST_NUMBERS = 1 << 28 };
enum { NTKLC_MOST_DIGITS = 400, NTKLC_MOST_LABELS = 4096 };
enum { NTKLC_LAYER = 1, NTKLC_STAIRS, NTKLC_ADDED, NTKLC_FLAT, NTKLC_LARGEST, NTKLC_MEAN };

/* One step: what it takes (0 is the input), what it makes, and its numbers. */
typedef struct {
    int kind, inputs[2], count;
    uint32_t shape[3], kernel[2], stride[2], padding[2], dilation[2], groups, padded_count;
    uint32_t rows, columns, levels;
    const int8_t *codes;
    const float *scale, *bias, *thresholds, *values;
    /* Of a layer of signs: thresholds in float64, and how little above one does not count. */
    const double *bounds, *steps;
    const float *offset;
    double gain, tie;
} ntklc_step;

typedef struct {
    ntklc_step steps[NTKLC_MOST_STEPS];
    uint32_t count, inputs, outputs, classes;
    int signs;
    const double *centre, *spread, *readout, *readout_bias;
} ntklc_network;

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

/* Whether the lengths are those of a code. */
static inline int ntklc_coded(ntklc_codes *c, const uint8_t *lengths, uint32_t n) {
    uint16_t starts[16];
    int32_t left = 1;
    uint32_t i;
    memset(c->count, 0, sizeof c->count);
    for (i = 0; i < n; i++) c->count[lengths[i]]++;
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
    return 1;
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
    if (f->failed || !ntklc_coded(all, lengths, 19)) f->failed = 1;
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
    if (f->failed || !lengths[256] || !ntklc_coded(all, lengths, n) ||
        !ntklc_coded(far, lengths + n, m)) f->failed = 1;
}

static inline void ntklc_fixed_codes(ntklc_codes *all, ntklc_codes *far) {
    uint8_t lengths[288];
    uint32_t i;
    for (i = 0; i < 288; i++) lengths[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
    ntklc_coded(all, lengths, 288);
    memset(lengths, 5, 30);
    ntklc_coded(far, lengths, 30);
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

static inline const char *ntklc_string(const char *p) {
    if (*p++ != '"') return NULL;
    for (; *p != '"'; p++) {
        if ((uint8_t)*p < 0x20 || (uint8_t)*p > 0x7E) return NULL;
        if (*p == '\\' && !*++p) return NULL;
    }
    return p + 1;
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

/* Whether a text stands there. */
static inline int ntklc_is(const char *p, const char *word) {
    size_t n = strlen(word);
    return p && *p == '"' && !strncmp(p + 1, word, n) && p[1 + n] == '"';
}

/* The first of a list's values, or what comes behind one of them; NULL at the end. */
static inline const char *ntklc_first(const char *p) {
    if (!p || *p != '[') return NULL;
    p = ntklc_blank(p + 1);
    return *p == ']' ? NULL : p;
}

static inline const char *ntklc_after(const char *p) {
    p = ntklc_blank(ntklc_value(p, 64));
    return *p == ',' ? ntklc_blank(p + 1) : NULL;
}

/* The value that an object has by a name, the last of several; NULL if it has none. */
static inline const char *ntklc_member(const char *p, const char *name) {
    const char *found = NULL;
    if (!p || *p != '{') return NULL;
    p = ntklc_blank(p + 1);
    while (*p == '"') {
        const char *value = ntklc_blank(ntklc_blank(ntklc_string(p)) + 1);
        if (ntklc_is(p, name)) found = value;
        p = ntklc_after(value);
        if (!p) break;
    }
    return found;
}

/* Whether all that an object has is by names in a list, blanks on both sides of each. */
static inline int ntklc_only(const char *p, const char *names) {
    if (!p || *p != '{') return 0;
    p = ntklc_blank(p + 1);
    while (*p == '"') {
        const char *at = names, *end = ntklc_string(p) - 1;
        size_t n = (size_t)(end - p) - 1;
        while ((at = strchr(at, ' ')) != NULL) {
            if (!strncmp(++at, p + 1, n) && at[n] == ' ') break;
        }
        if (!at || !n) return 0;
        p = ntklc_after(ntklc_blank(ntklc_blank(end + 1) + 1));
        if (!p) break;
    }
    return 1;
}

static inline int ntklc_number(const char *p, double *found) {
    const char *end = NULL;
    char text[NTKLC_MOST_DIGITS + 1], *point, *stop;
    size_t n;
    if (!p || (*p != '-' && (*p < '0' || *p > '9')) || !(end = ntklc_number_end(p))) return 0;
    n = (size_t)(end - p);
    if (n > NTKLC_MOST_DIGITS) return 0;
    memcpy(text, p, n);
    text[n] = 0;
    /* strtod reads the point that the program's locale has. */
    point = strchr(text, '.');
    if (point) *point = *localeconv()->decimal_point;
    *found = strtod(text, &stop);
    return stop == text + n && *found - *found == 0;
}

/* A whole number between two; whether there is one. */
static inline int ntklc_whole(const char *p, int64_t least, int64_t most, int64_t *found) {
    int64_t n = 0;
    const char *q = p;
    if (!p || (*p != '-' && (*p < '0' || *p > '9'))) return 0;
    for (q += *q == '-'; *q >= '0' && *q <= '9'; q++) {
        if (n > (INT64_MAX - (*q - '0')) / 10) return 0;
        n = 10 * n + (*q - '0');
    }
    if (*q == '.' || *q == 'e' || *q == 'E') return 0;
    *found = *p == '-' ? -n : n;
    return *found >= least && *found <= most;
}

/* A file: its description, and the arrays that this lists, one behind the other. */
typedef struct {
    const char *about;
    const uint8_t *rest;
    size_t size;
} ntklc_file;

typedef struct {
    const uint8_t *data;
    char kind[3];
    uint32_t dims;
    uint64_t shape[4], count;
} ntklc_array;

/* One entry of the list; whether it is one, and lies within so many bytes. */
static inline int ntklc_entry(const char *p, size_t left, ntklc_array *a, uint64_t *bytes) {
    const char *kind, *q;
    int64_t side;
    uint64_t size;
    kind = (p = ntklc_first(p)) ? ntklc_after(p) : NULL;
    if (!p || *p != '"' || !kind || *kind != '"' || kind[1] == '"' || kind[2] == '"' ||
        kind[3] != '"') {
        return 0;
    }
    memcpy(a->kind, kind + 1, 2);
    a->kind[2] = 0;
    if (!strstr("u1 i1 u2 i2 u4 i4 i8 f2 f4 f8", a->kind)) return 0;
    size = (uint64_t)(a->kind[1] - '0');
    a->count = 1;
    a->dims = 0;
    for (q = ntklc_after(kind); q; q = ntklc_after(q)) {
        if (a->dims == 4 || !ntklc_whole(q, 0, (int64_t)left, &side)) return 0;
        a->shape[a->dims++] = (uint64_t)side;
        if (side && a->count > left / (uint64_t)side) return 0;
        a->count *= (uint64_t)side;
    }
    *bytes = a->count * size;
    return *bytes <= left;
}

/* The array "part.name", "n.name" where the part is a number; whether there is one, and whether
   all that are listed take all bytes. */
static inline int ntklc_find(
    const ntklc_file *f, int64_t n, const char *part, const char *name, ntklc_array *a) {
    const uint8_t *at = f->rest;
    size_t left = f->size;
    const char *p = ntklc_first(ntklc_member(f->about, "arrays"));
    char wanted[64], digits[20];
    int found = 0, k = 0;
    if (part) strcpy(wanted, part);
    else {
        do digits[k++] = (char)('0' + n % 10);
        while (n /= 10);
        for (n = 0; k; n++) wanted[n] = digits[--k];
        wanted[n] = 0;
    }
    strcat(strcat(wanted, "."), name);
    for (; p; p = ntklc_after(p)) {
        ntklc_array one;
        uint64_t bytes;
        if (!ntklc_entry(p, left, &one, &bytes)) return -1;
        one.data = at;
        if (ntklc_is(ntklc_first(p), wanted)) {
            *a = one;
            found = 1;
        }
        at += bytes;
        left -= (size_t)bytes;
    }
    return left ? -1 : found;
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
    if (power == 31) return strtod("inf", NULL);
    if (power) value += 1024;
    unit += power ? (int64_t)power - 25 : -24;
    for (; unit > 0; unit--) value *= 2;
    for (; unit < 0; unit++) value /= 2;
    return bits >> 15 ? -value : value;
}

static inline double ntklc_element(const ntklc_array *a, uint64_t i) {
    switch (a->kind[0] == 'f' ? a->kind[1] : a->kind[1] + 64) {
    case '8': return ntklc_double(a->data + 8 * i);
    case '4': return ntklc_single(a->data + 4 * i);
    case '2': return ntklc_half(a->data + 2 * i, 0);
    default: return a->kind[0] == 'i' ? (int8_t)a->data[i] : a->data[i];
    }
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

static inline void ntklc_seeded(uint64_t seed, uint64_t stream, uint32_t state[4],
    uint32_t inc[4]) {
    uint32_t words[4], pool[4], made[8], by = 0x43b0d7e5u, n = 0, i, j, carry = 1;
    uint64_t both[2];
    both[0] = seed;
    both[1] = stream;
    for (i = 0; i < 2; i++) {
        words[n++] = (uint32_t)both[i];
        if (both[i] >> 32) words[n++] = (uint32_t)(both[i] >> 32);
    }
    for (i = 0; i < 4; i++) pool[i] = ntklc_hashed(i < n ? words[i] : 0, &by, 0x931e8875u);
    for (i = 0; i < 4; i++) {
        for (j = 0; j < 4; j++) {
            if (i != j) {
                uint32_t mixed = 0xca01f9ddu * pool[j];
                mixed -= 0x4973f715u * ntklc_hashed(pool[i], &by, 0x931e8875u);
                pool[j] = mixed ^ mixed >> 16;
            }
        }
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
    int8_t *codes, uint64_t total, double sparsity, uint64_t seed, uint64_t stream) {
    uint32_t state[4], inc[4], least, halves[2] = {0, 0};
    double share = sparsity * 2147483648.0;
    uint64_t i;
    /* To the nearest, of two the even one. */
    least = (uint32_t)share;
    if (share - least > 0.5 || (share - least == 0.5 && least % 2)) least++;
    ntklc_seeded(seed, stream, state, inc);
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
    if (ntklc_find(f, n, part, name, &a) != 1 || a.dims != 1 || strcmp(a.kind, "f8")) return NULL;
    found = (double *)ntklc_room(room, a.count, sizeof *found);
    for (i = 0; found && i < a.count; i++) {
        found[i] = ntklc_double(a.data + 8 * i);
        if (found[i] - found[i] != 0) return NULL;
    }
    *count = a.count;
    return found;
}

/* Of levels on a grid their distance, else 0: then sums have no rounding to be forgiven. */
static inline double ntklc_grid(const double *levels, uint64_t n) {
    double low = levels[0], high = low, step = 0, largest = 0, mean = 0;
    uint64_t i, j;
    for (i = 0; i < n; i++) {
        if (levels[i] < low) low = levels[i];
        if (levels[i] > high) high = levels[i];
        for (j = 0; j < i && n <= 4096; j++) {
            double off = levels[i] > levels[j] ? levels[i] - levels[j] : levels[j] - levels[i];
            if (off > 0 && (step == 0 || off < step)) step = off;
        }
    }
    if (step == 0 || (high - low) / step > 255.5) return 0;
    for (i = 0; i < n;
        i++) mean += levels[i] - step * (double)(int32_t)((levels[i] - low) / step + 0.5);
    mean /= (double)n;
    for (i = 0; i < n; i++) {
        double off = mean + step * (double)(int32_t)((levels[i] - low) / step + 0.5) - levels[i];
        if (off < 0) off = -off;
        if (off > largest) largest = off;
    }
    return largest <= 1e-12 * (high - low) ? step : 0;
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
        double sparsity;
        int64_t seed, stream;
        if (!ntklc_number(ntklc_member(drawn, "sparsity"), &sparsity) || sparsity < 0 ||
            sparsity >= 1 ||
            !ntklc_whole(ntklc_member(drawn, "seed"), 0, INT64_MAX, &seed) ||
            !ntklc_whole(ntklc_member(drawn, "stream"), 0, INT64_MAX, &stream)) return "its seed";
        ntklc_draw(codes, total, sparsity, (uint64_t)seed, (uint64_t)stream);
        return NULL;
    }
    p = ntklc_member(packed, "codes_zeros");
    if (!p || (*p != 't' && *p != 'f') || !ntklc_whole(ntklc_member(packed, "rice_bits"), 0, 30,
        &k) ||
        !ntklc_whole(ntklc_member(packed, "count"), 0, (int64_t)total, &count) ||
        ntklc_find(f, n, NULL, "low", &low) != 1 || ntklc_find(f, n, NULL, "signs", &signs) != 1 ||
        ntklc_find(f, n, NULL, "unary", &unary) != 1 || strcmp(low.kind, "u1") ||
        strcmp(signs.kind, "u1") || strcmp(unary.kind, "u1")) return "its packed weights";
    all.low = low.data, all.signs = signs.data, all.unary = unary.data;
    all.low_size = low.count, all.signs_size = signs.count, all.unary_size = unary.count;
    all.k = (uint64_t)k, all.count = (uint64_t)count, all.zeros = *p == 't';
    return ntklc_unpack(&all, codes, total) ? NULL : "its packed weights";
}

static inline const char *ntklc_layer_of(
    const ntklc_file *f, const char *about, int64_t n, ntklc_arena *room, ntklc_network *net) {
    ntklc_step *s = net->steps + n;
    const char *p = ntklc_first(ntklc_member(about, "shape")), *q = p ? ntklc_after(p) : NULL;
    const double *levels;
    float *values;
    int8_t *codes;
    int64_t rows, columns;
    uint64_t t = 0, m = 0, i;
    ntklc_array a;
    int has;
    if (!ntklc_whole(p, 1, 1 << 20, &rows) || !ntklc_whole(q, 1, 1 << 20, &columns) ||
        ntklc_after(q) ||
        (n && (uint32_t)columns != s[-1].rows)) return "a shape";
    if (!ntklc_number(ntklc_member(about, "scale"), &s->gain) || s->gain <= 0) return "a scale";
    s->rows = (uint32_t)rows, s->columns = (uint32_t)columns;
    s->bounds = ntklc_doubles(f, room, n, NULL, "thresholds", &t);
    levels = ntklc_doubles(f, room, n, NULL, "levels", &m);
    if (!s->bounds || !levels || m < 2 || m != t + 1 || m > 65536 ||
        (uint64_t)rows * (uint64_t)(columns > (int64_t)m ? columns : (int64_t)m)
            > NTKLC_MOST_NUMBERS) {
        return "thresholds and levels";
    }
    for (i = 1; i < t; i++) {
        if (s->bounds[i] <= s->bounds[i - 1]) return "thresholds and levels";
    }
    s->steps = levels;
    s->levels = (uint32_t)m;
    /* On a grid what is whole but for rounding is a tie, and a tie does not exceed. */
    s->tie = n ? ntklc_grid(s[-1].steps, s[-1].levels) * 1e-9 : 0;
    has = ntklc_find(f, n, NULL, "offset", &a);
    if (has < 0 || (has && (a.dims != 1 || a.count != (uint64_t)rows || strcmp(a.kind, "f4"))))
        return "an offset";
    if (has) {
        s->offset = values = (float *)ntklc_room(room, a.count, sizeof *values);
        if (!values) return "it needs more room";
        for (i = 0; i < a.count; i++) {
            values[i] = ntklc_single(a.data + 4 * i);
            if (values[i] - values[i] != 0) return "an offset";
        }
    }
    s->codes = codes = (int8_t *)ntklc_room(room, (uint64_t)rows * (uint64_t)columns, 1);
    if (!codes) return "it needs more room";
    return ntklc_signs_of(f, about, n, codes, (uint64_t)rows * (uint64_t)columns);
}

static inline const char *ntklc_layers_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    const char *p = ntklc_first(ntklc_member(f->about, "layers")), *wrong;
    ntklc_array weights, scale, bias, classes;
    uint64_t n, i = 0, j = 0;
    double *W, *b;
    for (net->count = 0; p; p = ntklc_after(p), net->count++) {
        if (net->count == NTKLC_MOST_STEPS) return "it has too many layers";
        wrong = ntklc_layer_of(f, p, net->count, room, net);
        if (wrong) return wrong;
    }
    if (!net->count) return "it has no layers";
    net->signs = 1;
    net->inputs = net->steps[0].columns;
    if (ntklc_find(f, 0, "readout", "weights", &weights) != 1 || ntklc_find(f, 0, "readout",
        "scale", &scale) != 1 ||
        ntklc_find(f, 0, "readout", "bias", &bias) != 1 || ntklc_find(f, 0, "readout", "classes",
            &classes) != 1) {
        return "it has no readout";
    }
    if (!classes.count) return "its outputs are values";
    n = weights.shape[1];
    if (weights.dims != 2 || weights.shape[0] != net->steps[net->count - 1].rows || !n ||
        scale.dims != 1 ||
        bias.dims != 1 || scale.count != n || bias.count != n || classes.shape[0] != n ||
        strcmp(scale.kind, bias.kind) || scale.kind[0] != 'f' || scale.kind[1] < '4' ||
        !(weights.kind[0] == 'f' ? weights.kind[1] < '8' : !strcmp(weights.kind, "i1")) ||
        !(strcmp(classes.kind, "i8") ? !strcmp(classes.kind, "u4") &&
            classes.dims == 2 : classes.dims == 1)) {
        return "its readout";
    }
    W = (double *)ntklc_room(room, weights.count, sizeof *W);
    b = (double *)ntklc_room(room, n, sizeof *b);
    if (!W || !b) return "it needs more room";
    for (i = 0; i < weights.shape[0]; i++) {
        for (j = 0; j < n; j++) {
            double w = ntklc_element(&weights, i * n + j) * ntklc_element(&scale, j);
            /* Where the scale is in float32, so are products with it. */
            if (scale.kind[1] == '4') w = (float)w;
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
    switch (ntklc_find(f, 0, "scaling", "scale", &scale)) {
    case 0: return NULL;
    case 1: break;
    default: return "its arrays";
    }
    net->centre = ntklc_doubles(f, room, 0, "scaling", "centre", &i);
    net->spread = ntklc_doubles(f, room, 0, "scaling", "scale", &j);
    if (!net->centre || !net->spread || i != j || i != net->inputs) return "its scaling";
    while (j--) {
        if (net->spread[j] <= 0) return "its scaling";
    }
    return NULL;
}

/* Networks that are lists of operations. */
static inline int ntklc_pair(const char *p, int64_t least, int64_t most, uint32_t out[2]) {
    int64_t one, two;
    if (p && *p != '[') {
        if (!ntklc_whole(p, least, most, &one)) return 0;
        out[0] = out[1] = (uint32_t)one;
        return 1;
    }
    p = ntklc_first(p);
    if (!p || !ntklc_whole(p, least, most, &one)) return 0;
    p = ntklc_after(p);
    if (!p || !ntklc_whole(p, least, most, &two) || ntklc_after(p)) return 0;
    out[0] = (uint32_t)one, out[1] = (uint32_t)two;
    return 1;
}

static inline const char *ntklc_window_of(const char *about, ntklc_step *s) {
    static const char *const names[3] = {"stride", "padding", "dilation"};
    uint32_t *const parts[3] = {s->stride, s->padding, s->dilation};
    int64_t groups;
    int i;
    if (!ntklc_only(about, " stride padding dilation groups ")) return "a window";
    for (i = 0; i < 3; i++) {
        const char *p = ntklc_member(about, names[i]);
        parts[i][0] = parts[i][1] = i != 1;
        if (p && (*p != '[' || !ntklc_pair(p, i != 1, 4096, parts[i]))) return "a window";
    }
    s->groups = 1;
    if (ntklc_member(about, "groups")) {
        if (!ntklc_whole(ntklc_member(about, "groups"), 1, 1 << 20, &groups)) return "a window";
        s->groups = (uint32_t)groups;
    }
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
    const char *p = ntklc_first(ntklc_member(about, "shape")), *window = ntklc_member(about,
        "window"), *wrong;
    uint64_t total = 1, columns = 1, i;
    int64_t side, units[2] = {0, 0};
    ntklc_array rows, stream;
    int8_t *codes;
    float *numbers;
    int dims = 0;
    s->kind = NTKLC_LAYER;
    for (; p; p = ntklc_after(p), dims++) {
        if (dims == 4 || !ntklc_whole(p, 1, NTKLC_MOST_NUMBERS, &side)) return "a shape";
        total *= (uint64_t)side;
        if (total >= NTKLC_MOST_NUMBERS) return "a shape";
        if (dims) columns *= (uint64_t)side;
        else s->rows = (uint32_t)side;
        if (dims > 1) s->kernel[dims - 2] = (uint32_t)side;
    }
    if (dims != (window ? 4 : 2)) return "a shape";
    s->columns = (uint32_t)columns;
    s->count = dims;
    if (window && (wrong = ntklc_window_of(window, s))) return wrong;
    if (ntklc_find(f, n, NULL, "rows", &rows) != 1 || ntklc_find(f, n, NULL, "codes",
        &stream) != 1 ||
        strcmp(stream.kind, "u1") || stream.dims != 1 || rows.dims != 2 || rows.shape[0] != 2 ||
        rows.shape[1] != s->rows || (strcmp(rows.kind, "f2") && strcmp(rows.kind, "f4")))
            return "its numbers";
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
        else numbers[i] = (float)ntklc_half(rows.data + 2 * i, units[i / s->rows]);
        if (numbers[i] - numbers[i] != 0) return "its scales and biases";
    }
    s->bias = s->scale + s->rows;
    return ntklc_codes_of(about, &stream, codes, total);
}

static inline const char *ntklc_stairs_of(
    const ntklc_file *f, const char *about, int64_t n, ntklc_arena *room, ntklc_step *s) {
    const char *p = ntklc_first(ntklc_member(about, "uniform"));
    double grid[4] = {0, 0, 0, 0};
    float *thresholds, *values;
    ntklc_array a;
    int64_t m = 0;
    uint64_t i;
    int k, uniform = p != NULL;
    s->kind = NTKLC_STAIRS;
    if (p) {
        if (!ntklc_whole(p, 2, 65536, &m)) return "a staircase";
        for (k = 0; k < 4; k++) {
            p = ntklc_after(p);
            if (!p || !ntklc_number(p, grid + k)) return "a staircase";
        }
        if (ntklc_after(p)) return "a staircase";
    } else {
        if (ntklc_find(f, n, NULL, "staircase", &a) != 1 || strcmp(a.kind, "f4") || a.dims != 1 ||
            a.count < 3 || a.count % 2 == 0 || a.count > 2 * 65536) return "a staircase";
        m = (int64_t)(a.count / 2 + 1);
    }
    thresholds = (float *)ntklc_room(room, (uint64_t)m, sizeof *thresholds);
    values = (float *)ntklc_room(room, (uint64_t)m, sizeof *values);
    if (!thresholds || !values) return "it needs more room";
    for (i = 0; i < (uint64_t)m; i++) {
        if (uniform) {
            thresholds[i] = (float)(grid[0] + grid[1] * (double)i);
            values[i] = (float)(grid[2] + grid[3] * (double)i);
        } else {
            if (i + 1 < (uint64_t)m) thresholds[i] = ntklc_single(a.data + 4 * i);
            values[i] = ntklc_single(a.data + 4 * (i + (uint64_t)m - 1));
        }
        if (values[i] - values[i] != 0 || (i + 1 < (uint64_t)m &&
            thresholds[i] - thresholds[i] != 0)) return "a staircase";
        if (i && i + 1 < (uint64_t)m && thresholds[i] <= thresholds[i - 1]) return "a staircase";
    }
    s->thresholds = thresholds, s->values = values, s->levels = (uint32_t)m;
    return NULL;
}

/* What has no numbers; `shape` is that of what it takes. */
static inline const char *ntklc_plain_of(const char *about, ntklc_step *s, const uint32_t *shape) {
    const char *name = ntklc_member(about, "name"), *options = ntklc_member(about, "options");
    uint32_t i, sides[2];
    s->kind = ntklc_is(name, "add") ? NTKLC_ADDED : ntklc_is(name, "flatten") ? NTKLC_FLAT
            : ntklc_is(name, "max_pool2d") || ntklc_is(name,
                "adaptive_max_pool2d") ? NTKLC_LARGEST : NTKLC_MEAN;
    if (s->kind == NTKLC_ADDED || s->kind == NTKLC_FLAT) {
        return options &&
            ntklc_blank(options + 1)[0] != '}' ? "an option that is not known here" : NULL;
    }
    if (!shape[1]) return "an image's operation where there is none";
    if (options && !ntklc_only(options, " dim output_size kernel_size stride padding ")) {
        return "an option that is not known here";
    }
    if (ntklc_is(name, "mean")) {
        if (!ntklc_pair(ntklc_member(options, "dim"), 2, 3, sides) || sides[0] == sides[1])
            return "a mean";
        s->kernel[0] = s->stride[0] = shape[1], s->kernel[1] = s->stride[1] = shape[2];
        s->count = 1;
        return NULL;
    }
    if (ntklc_is(name, "adaptive_max_pool2d") || ntklc_is(name, "adaptive_avg_pool2d")) {
        if (!ntklc_pair(ntklc_member(options, "output_size"), 1, 4096, sides)) return "a size";
        for (i = 0; i < 2; i++) {
            if (shape[1 + i] % sides[i]) return "sides that do not divide";
            s->kernel[i] = s->stride[i] = shape[1 + i] / sides[i];
        }
        return NULL;
    }
    if (!ntklc_is(name, "max_pool2d") && !ntklc_is(name, "avg_pool2d"))
        return "an operation that is not known";
    if (!ntklc_pair(ntklc_member(options, "kernel_size"), 1, 4096, s->kernel)) return "a window";
    memcpy(s->stride, s->kernel, sizeof s->stride);
    if (ntklc_member(options, "stride") && !ntklc_pair(ntklc_member(options, "stride"), 1, 4096,
        s->stride)) return "a window";
    if (ntklc_member(options, "padding") && !ntklc_pair(ntklc_member(options, "padding"), 0, 4096,
        s->padding)) return "a window";
    for (i = 0; i < 2; i++) {
        if (2 * s->padding[i] > s->kernel[i]) return "a window";
    }
    return NULL;
}

static inline int ntklc_moved(ntklc_step *s, const uint32_t *in, uint32_t channels) {
    uint64_t all = channels;
    uint32_t i;
    s->shape[0] = channels;
    for (i = 0; i < 2; i++) {
        uint64_t wide = (uint64_t)in[1 + i] + 2 * s->padding[i];
        uint64_t reach = (uint64_t)s->dilation[i] * (s->kernel[i] - 1) + 1;
        if (reach > wide) return 0;
        s->shape[1 + i] = (uint32_t)((wide - reach) / s->stride[i] + 1);
        all *= s->shape[1 + i];
    }
    return all <= NTKLC_MOST_NUMBERS;
}

/* The shape of what a step makes: rows alone are (length, 0, 0). */
static inline const char *ntklc_shaped(ntklc_step *s, const uint32_t *in, const uint32_t *other) {
    uint32_t length = in[1] ? in[0] * in[1] * in[2] : in[0];
    memcpy(s->shape, in, sizeof s->shape);
    switch (s->kind) {
    case NTKLC_STAIRS: return NULL;
    case NTKLC_ADDED: return memcmp(in, other, sizeof s->shape) ? "a sum of two shapes" : NULL;
    case NTKLC_LAYER:
        if (s->count == 2) {
            if (in[1] || in[0] != s->columns) return "a layer that does not fit";
            s->shape[0] = s->rows;
            return NULL;
        }
        if (!in[1] ||
            (uint64_t)s->columns * s->groups != (uint64_t)in[0] * s->kernel[0] * s->kernel[1] ||
            s->rows % s->groups || !ntklc_moved(s, in, s->rows)) return "a layer that does not fit";
        return NULL;
    case NTKLC_FLAT: break;
    default:
        if (!ntklc_moved(s, in, in[0])) return "a window that does not fit";
        if (!s->count) return NULL;
        length = in[0];
    }
    s->shape[0] = length;
    s->shape[1] = s->shape[2] = 0;
    return NULL;
}

static inline const uint32_t *ntklc_shape(const ntklc_network *net, const uint32_t *given, int k) {
    return k ? net->steps[k - 1].shape : given;
}

static inline const char *ntklc_step_of(
    const ntklc_file *f, const char *about, uint32_t i, ntklc_arena *room, ntklc_network *net,
        const uint32_t *given) {
    ntklc_step *s = net->steps + i;
    const char *p = ntklc_first(ntklc_member(about, "inputs")), *wrong;
    ntklc_array a;
    int64_t k;
    int n = 0;
    memset(s, 0, sizeof *s);
    s->stride[0] = s->stride[1] = s->dilation[0] = s->dilation[1] = s->groups = 1;
    s->inputs[0] = s->inputs[1] = (int)i;
    for (; p; p = ntklc_after(p), n++) {
        if (n == 2 || !ntklc_whole(p, 0, i, &k)) return "what an operation takes";
        s->inputs[n] = (int)k;
    }
    if (ntklc_member(about, "inputs") && !n) return "what an operation takes";
    if (!n) n = 1;
    if (ntklc_member(about, "bits")) wrong = ntklc_affine_of(f, about, i, room, s);
    else if (ntklc_member(about, "uniform") || ntklc_find(f, i, NULL, "staircase", &a) == 1) {
        wrong = ntklc_stairs_of(f, about, i, room, s);
    } else wrong = ntklc_plain_of(about, s, ntklc_shape(net, given, s->inputs[0]));
    if (!wrong && n != (s->kind == NTKLC_ADDED ? 2 : 1)) wrong = "what an operation takes";
    return wrong ? wrong : ntklc_shaped(s, ntklc_shape(net, given, s->inputs[0]), ntklc_shape(net,
        given, s->inputs[1]));
}

/* Whether there are so many labels, all texts or all whole numbers, and no two alike. */
static inline int ntklc_labels(const char *p, uint32_t count) {
    const char *first = p, *q;
    uint32_t found = 0;
    int64_t number;
    if (!p || count > NTKLC_MOST_LABELS) return 0;
    for (; p; p = ntklc_after(p), found++) {
        size_t size = (size_t)(ntklc_value(p, 1) - p);
        if (found == count || (*p == '"') != (*first == '"')) return 0;
        if (*p != '"' && !ntklc_whole(p, -INT64_MAX, INT64_MAX, &number)) return 0;
        for (q = first; q != p; q = ntklc_after(q)) {
            if ((size_t)(ntklc_value(q, 1) - q) == size && !memcmp(p, q, size)) return 0;
        }
    }
    return found == count;
}

static inline const char *ntklc_operations_of(const ntklc_file *f, ntklc_arena *room,
    ntklc_network *net) {
    const char *p = ntklc_first(ntklc_member(f->about, "shape")), *wrong;
    uint32_t given[3] = {0, 0, 0}, dims = 0;
    uint64_t all = 1;
    int64_t side;
    for (; p; p = ntklc_after(p)) {
        if (dims == 3 || !ntklc_whole(p, 1, NTKLC_MOST_NUMBERS, &side)) return "the inputs' shape";
        given[dims++] = (uint32_t)side;
        all *= (uint64_t)side;
        if (all > NTKLC_MOST_NUMBERS) return "the inputs' shape";
    }
    if (dims != 1 && dims != 3) return "the inputs' shape";
    net->inputs = (uint32_t)all;
    memcpy(net->steps[NTKLC_MOST_STEPS - 1].shape, given, sizeof given);
    p = ntklc_first(ntklc_member(f->about, "operations"));
    for (net->count = 0; p; p = ntklc_after(p), net->count++) {
        if (net->count == NTKLC_MOST_STEPS - 1) return "it has too many operations";
        wrong = ntklc_step_of(f, p, net->count, room, net, given);
        if (wrong) return wrong;
    }
    if (!net->count) return "it has no operations";
    if (net->steps[net->count - 1].kind != NTKLC_LAYER || net->steps[net->count - 1].shape[1])
        return "its last operation";
    net->outputs = net->steps[net->count - 1].rows;
    net->classes = net->outputs > 1 ? net->outputs : 2;
    p = ntklc_member(f->about, "classes");
    if (!p || *p == 'n') return "its outputs are values";
    if (*p != '[') return ntklc_whole(p, net->classes, net->classes, &side) ? NULL : "its classes";
    return ntklc_labels(ntklc_first(p), net->classes) ? NULL : "its classes";
}

/* Whether a header goes on as every one does: one array of so many bytes, and blanks to its end. */
static inline int ntklc_headed(const uint8_t *p, const uint8_t *end, uint64_t size) {
    static const char form[] = "},\"\":{\"dtype\":\"U8\",\"shape\":[#],\"data_offsets\":[0,#]}}";
    const char *q;
    for (q = form; *q; q++) {
        char digits[20];
        uint64_t left = size;
        int n = 0;
        if (*q != '#') {
            if (p == end || *p++ != (uint8_t)*q) return 0;
            continue;
        }
        do digits[n++] = (char)('0' + left % 10);
        while (left /= 10);
        while (n) {
            if (p == end || *p++ != (uint8_t)digits[--n]) return 0;
        }
    }
    for (; p < end; p++) {
        if (*p != ' ') return 0;
    }
    return 1;
}

/* NULL, or why the file does not hold a network that classifies. */
static inline const char *ntklc_read(
    const uint8_t *file, size_t size, ntklc_arena *room, ntklc_network *net) {
    static const char mark[] = "{\"__metadata__\":{\"ntklc\":\"", letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const size_t at = 8 + sizeof mark - 1;
    uint8_t digest[32];
    ntklc_inflater stream;
    ntklc_file f;
    const char *p;
    uint32_t head, told, i;
    size_t end;
    ntklc_array any;
    memset(net, 0, sizeof *net);
    if (size < at + 19 || memcmp(file + 8, mark, at - 8))
        return "not a network, or its header is damaged";
    ntklc_sha256(file, size, at, digest);
    for (i = 0; i < 16; i++) {
        uint32_t three =
            (uint32_t)digest[i / 4 * 3] << 16 | (uint32_t)digest[i / 4 * 3 + 1] << 8 | digest[i / 4
            * 3 + 2];
        if (file[at + i] != (uint8_t)letters[three >> 6 * (3 - i % 4) & 63])
            return "damaged: it has another digest";
    }
    head = ntklc_u32(file);
    if (ntklc_u32(file + 4) || head < at + 11 || head > size - 8) return "damaged: its header";
    if (memcmp(file + at + 16, " 2\"", 3)) return "of another version";
    if (!ntklc_headed(file + at + 19, file + 8 + head, size - 8 - head)) {
        return "damaged: its header";
    }
    file += 8 + head, size -= 8 + head;
    told = size < 4 ? 0 : ntklc_u32(file);
    if (size < 4 || told > size - 4) return "damaged: its description";
    memset(&stream, 0, sizeof stream);
    stream.in = file + 4, stream.size = told;
    /* What the description needs is not known before: all the room there is, and then the rest. */
    end = room->used;
    if (room->size - end < 2) return "it needs more room";
    stream.most = room->size - end - 1;
    if (stream.most > NTKLC_MOST_TEXT) stream.most = NTKLC_MOST_TEXT;
    stream.out = (uint8_t *)room->memory + end;
    if (!ntklc_inflate(&stream)) return "damaged: its description, or it needs more room";
    stream.out[stream.length] = 0;
    room->used = end + stream.length + 1;
    f.about = ntklc_blank((char *)stream.out), f.rest = file + 4 + told, f.size = size - 4 - told;
    p = ntklc_value(f.about, 64);
    if (*f.about != '{' || !p || *ntklc_blank(p) || strlen((char *)stream.out) != stream.length) {
        return "damaged: its description";
    }
    if (ntklc_find(&f, 0, NULL, "", &any) < 0) return "its arrays";
    return ntklc_member(f.about, "operations") ? ntklc_operations_of(&f, room,
        net) : ntklc_layers_of(&f, room, net);
}

/* Running. */
static inline void ntklc_run_window(const ntklc_step *s, const float *x, const uint32_t *in,
    float *out) {
    uint32_t o, y, z, c, i, j, layer = s->kind == NTKLC_LAYER;
    uint32_t depth = layer ? in[0] / s->groups : 1, per = layer ? s->rows / s->groups : 1;
    for (o = 0; o < s->shape[0]; o++) {
        uint32_t first = layer ? o / per * depth : o;
        uint32_t high = s->shape[1] ? s->shape[1] : 1, wide = s->shape[2] ? s->shape[2] : 1;
        for (y = 0; y < high; y++) {
            for (z = 0; z < wide; z++) {
                double sum = 0;
                int seen = 0;
                for (c = 0; c < depth; c++) {
                    for (i = 0; i < s->kernel[0]; i++) {
                        int64_t row =
                            (int64_t)y * s->stride[0] + (int64_t)i * s->dilation[0] - s->padding[0];
                        if (row < 0 || row >= in[1]) continue;
                        for (j = 0; j < s->kernel[1]; j++) {
                            int64_t col =
                                (int64_t)z * s->stride[1] + (int64_t)j * s->dilation[1] -
                                s->padding[1];
                            double value;
                            if (col < 0 || col >= in[2]) continue;
                            value = x[((uint64_t)(first + c) * in[1] + (uint64_t)row)
                                * in[2] + (uint64_t)col];
                            if (layer) value *= s->codes[(((uint64_t)o * depth + c)
                                * s->kernel[0] + i) * s->kernel[1] + j];
                            if (s->kind != NTKLC_LARGEST) sum += value;
                            else if (!seen || value > sum) sum = value;
                            seen = 1;
                        }
                    }
                }
                if (s->kind == NTKLC_MEAN) sum /= (double)s->kernel[0] * s->kernel[1];
                if (layer) {
                    /* Rounded twice, as two operations in float32 are. */
                    volatile float scaled = (float)sum * s->scale[o];
                    sum = (double)scaled + s->bias[o];
                }
                *out++ = (float)sum;
            }
        }
    }
}

static inline void ntklc_run_step(const ntklc_step *s, const float *x, const float *other,
    const uint32_t *in, float *out) {
    uint64_t n = in[1] ? (uint64_t)in[0] * in[1] * in[2] : in[0], i, j;
    if (s->kind == NTKLC_LARGEST || s->kind == NTKLC_MEAN || (s->kind == NTKLC_LAYER &&
        s->count == 4)) {
        ntklc_run_window(s, x, in, out);
        return;
    }
    for (i = 0; i < (s->kind == NTKLC_LAYER ? s->rows : n); i++) {
        if (s->kind == NTKLC_ADDED) out[i] = x[i] + other[i];
        else if (s->kind == NTKLC_FLAT) out[i] = x[i];
        else if (s->kind == NTKLC_STAIRS) {
            for (j = 0; j + 1 < s->levels && x[i] > s->thresholds[j]; j++) continue;
            out[i] = s->values[j];
        } else {
            volatile float scaled;
            double sum = 0;
            for (j = 0; j < n; j++) sum += (double)s->codes[i * n + j] * x[j];
            scaled = (float)sum * s->scale[i];
            out[i] = scaled + s->bias[i];
        }
    }
}

static inline int ntklc_highest(const double *scores, uint32_t n) {
    uint32_t best = 0, k;
    for (k = 1; k < n; k++) {
        if (scores[k] > scores[best]) best = k;
    }
    return (int)best;
}

/* In the order that the format fixes: columns with +1 in fours, then those with -1. */
static inline double ntklc_signed_sum(const int8_t *signs, const double *x, uint64_t n) {
    double sum = 0, four[4];
    int sign;
    for (sign = 1; sign >= -1; sign -= 2) {
        uint32_t held = 0, i;
        uint64_t j;
        for (j = 0; j < n; j++) {
            if (signs[j] != sign) continue;
            four[held++] = x[j];
            if (held < 4) continue;
            sum += sign * (four[0] + four[1] + four[2] + four[3]);
            held = 0;
        }
        for (i = 0; i < held; i++) sum += sign * four[i];
    }
    return sum;
}

static inline int ntklc_predict_signs(const ntklc_network *net, const float *given,
    ntklc_arena *room) {
    double *x = (double *)ntklc_room(room, net->inputs, sizeof *x), *y, *scores;
    uint64_t n = net->inputs, i, j, k;
    if (!x) return -1;
    for (i = 0; i < n;
        i++) x[i] = net->centre ? (given[i] - net->centre[i]) / net->spread[i] : given[i];
    for (k = 0; k < net->count; k++, x = y) {
        const ntklc_step *s = net->steps + k;
        n = s->columns;
        y = (double *)ntklc_room(room, s->rows, sizeof *y);
        if (!y) return -1;
        for (i = 0; i < s->rows; i++) {
            double sum = ntklc_signed_sum(s->codes + i * n, x, n);
            double shift = s->offset ? s->offset[i] : 0;
            for (j = 0; j + 1 < s->levels && sum > (s->bounds[j] - shift) / s->gain + s->tie;
                j++) continue;
            y[i] = k + 1 < net->count ? s->steps[j] : (float)s->steps[j];
        }
    }
    n = net->steps[net->count - 1].rows;
    scores = (double *)ntklc_room(room, net->outputs, sizeof *scores);
    if (!scores) return -1;
    for (k = 0; k < net->outputs; k++) {
        scores[k] = net->readout_bias[k];
        for (i = 0; i < n; i++) scores[k] += x[i] * net->readout[i * net->outputs + k];
    }
    return ntklc_highest(scores, net->outputs);
}

static inline int ntklc_predict(const ntklc_network *net, const float *x, ntklc_arena *room) {
    const float *found[NTKLC_MOST_STEPS + 1];
    const uint32_t *given = net->steps[NTKLC_MOST_STEPS - 1].shape;
    double scores[2];
    ntklc_arena left = *room;
    uint32_t k, best = 0;
    if (net->signs) return ntklc_predict_signs(net, x, &left);
    found[0] = x;
    for (k = 0; k < net->count; k++) {
        const ntklc_step *s = net->steps + k;
        uint64_t n = s->shape[1] ? (uint64_t)s->shape[0] * s->shape[1] * s->shape[2] : s->shape[0];
        float *out = (float *)ntklc_room(&left, n, sizeof *out);
        if (!out) return -1;
        ntklc_run_step(s, found[s->inputs[0]], found[s->inputs[1]], ntklc_shape(net, given,
            s->inputs[0]), out);
        found[k + 1] = out;
    }
    if (net->outputs == 1) {
        scores[0] = 0, scores[1] = found[net->count][0];
        return ntklc_highest(scores, 2);
    }
    for (k = 1; k < net->outputs; k++) {
        if (found[net->count][k] > found[net->count][best]) best = k;
    }
    return (int)best;
}

#endif
