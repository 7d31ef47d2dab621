/* What a stage is. */
enum { NTKLC_WEIGHTS = 1, NTKLC_DENSE, NTKLC_MAX, NTKLC_SUM, NTKLC_ADD, NTKLC_SCORES };
enum { NTKLC_DIGITS = 0, NTKLC_ONES, NTKLC_ZEROS, NTKLC_DRAWN };
enum { NTKLC_PLAIN = 0, NTKLC_LINE, NTKLC_BOUNDS };

typedef struct {
    /* Where in the workspace its rows begin, and in the tables its numbers; values of a sum. */
    ntklc_place at, weights, gains, table, length, times, times_other;
    /* The value of the first piece, where there is no table. */
    ntklc_value first;
    /* Stages that it takes; rows, columns and channels that it makes, and rows that are kept. */
    ntklc_size kind, in, other, rows, columns, channels, ring;
    /* The window that moves over what it takes, and of how many sums the largest counts. */
    ntklc_size height, width, stride_y, stride_x, spread_y, spread_x, pad_y, pad_x, pool_y, pool_x;
    /* Channels that a row of weights takes, and rows that take the same. */
    ntklc_size depth, outputs;
    /* Of weights; of stairs, whether each row has its own, and the last piece. */
    ntklc_size format, bits, mode, own, last, shift;
} ntklc_stage;

/* The network's tables stand here. */
/* How the stages run. A stage makes one row of what it gives as soon as the rows that it takes are
   there, the last stage that can first; a row is kept until no stage takes it any more. */

/* Weights one after another, from where a stage's begin. */
typedef struct {
    const uint8_t *bytes;
    int32_t weight;
    uint32_t gap, bits, window;
    uint8_t kind, fresh;
#ifdef NTKLC_HAS_DRAWN
    uint32_t state[4], high, least;
#endif
} ntklc_reader;

/* The next bit is at 0x100. Behind those of a byte that are left stands a one: where only zeros are
   below, the next byte is due. */
static inline uint32_t ntklc_next(ntklc_reader *r, uint32_t window) {
    window <<= 1;
    return window & 0xFF ? window : (uint32_t)*r->bytes++ << 1 | 1;
}

#if defined(NTKLC_HAS_DIGITS) || defined(NTKLC_HAS_ONES) || defined(NTKLC_HAS_ZEROS)
static inline uint32_t ntklc_bits(ntklc_reader *r, uint32_t n) {
    uint32_t found = 0, window = r->window;
    for (; n; n--) {
        window = ntklc_next(r, window);
        found = found << 1 | (window >> 8 & 1);
    }
    r->window = window;
    return found;
}
#endif

#ifdef NTKLC_HAS_DRAWN
static inline uint32_t ntklc_word(const uint8_t *b) {
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

/* PCG64 (M. O'Neill, 2014): state <- state * multiplier + increment mod 2^128; its halves' XOR,
   turned right by its six highest bits. Two weights of 32 bits each: the lower half, the higher. */
static inline uint32_t ntklc_random(ntklc_reader *r) {
    static const uint32_t multiplier[4] = {0x9FCCF645u, 0x4385DF64u, 0x1FC65DA4u, 0x2360ED05u};
    uint32_t next[4], i, j, turn;
    uint64_t word;
    r->fresh = !r->fresh;
    if (r->fresh) return r->high;
    for (i = 0; i < 4; i++) next[i] = ntklc_word(r->bytes + 4 * i);
    for (i = 0; i < 4; i++) {
        uint64_t carry = 0;
        for (j = 0; i + j < 4; j++) {
            carry += (uint64_t)r->state[i] * multiplier[j] + next[i + j];
            next[i + j] = (uint32_t)carry;
            carry >>= 32;
        }
    }
    for (i = 0; i < 4; i++) r->state[i] = next[i];
    word = (uint64_t)(next[3] ^ next[1]) << 32 | (next[2] ^ next[0]);
    turn = next[3] >> 26;
    word = word >> turn | word << (-turn & 63u);
    r->high = (uint32_t)(word >> 32);
    return (uint32_t)word;
}
#endif

static inline void ntklc_open(ntklc_reader *r, const ntklc_stage *s) {
    r->bytes = ntklc_weights + s->weights;
    r->kind = (uint8_t)s->format;
    r->bits = s->bits;
    r->window = 0x80;
    r->weight = 0;
    r->fresh = 1;
    r->gap = 0;
#ifdef NTKLC_HAS_DRAWN
    if (r->kind == NTKLC_DRAWN) {
        uint32_t i;
        for (i = 0; i < 4; i++) r->state[i] = ntklc_word(r->bytes + 16 + 4 * i);
        r->least = ntklc_word(r->bytes + 32);
    }
#endif
}

#if defined(NTKLC_HAS_ONES) || defined(NTKLC_HAS_ZEROS)
/* Rice's code: as many zeros as the number has whole 2^bits, a one, and its lowest bits. */
static inline uint32_t ntklc_gap(ntklc_reader *r) {
    uint32_t whole = 0, window = ntklc_next(r, r->window);
    for (; !(window & 0x100); whole++) window = ntklc_next(r, window);
    r->window = window;
    return whole << r->bits | ntklc_bits(r, r->bits);
}
#endif

/* How many of the next weights are zero, up to `most`; if fewer, the one behind them is taken. */
static inline uint32_t ntklc_skip(ntklc_reader *r, uint32_t most) {
    uint32_t i = 0;
#ifdef NTKLC_HAS_ONES
    if (r->kind == NTKLC_ONES) {
        if (!most) return 0;
        if (r->fresh) r->gap = ntklc_gap(r);
        r->fresh = r->gap < most;
        if (!r->fresh) {
            r->gap -= most;
            return most;
        }
        r->weight = ntklc_bits(r, 1) ? -1 : 1;
        return r->gap;
    }
#endif
    for (; i < most; i++) {
#ifdef NTKLC_HAS_ZEROS
        if (r->kind == NTKLC_ZEROS) {
            if (r->fresh) r->gap = ntklc_gap(r);
            r->fresh = !r->gap;
            if (r->fresh) continue;
            r->gap--;
            r->weight = ntklc_bits(r, 1) ? -1 : 1;
            break;
        }
#endif
#ifdef NTKLC_HAS_DRAWN
        if (r->kind == NTKLC_DRAWN) {
            uint32_t word = ntklc_random(r);
            if (word >> 1 < r->least) continue;
            r->weight = word & 1 ? 1 : -1;
            break;
        }
#endif
#ifdef NTKLC_HAS_DIGITS
        r->weight = (int32_t)ntklc_bits(r, r->bits) - (int32_t)(1u << (r->bits - 1));
        if (r->weight) break;
#endif
    }
    return i;
}

/* What becomes of a sum: gain * sum + start; or the value of the piece that it lies in. */
static inline ntklc_value ntklc_stair(const ntklc_stage *s, uint32_t row, ntklc_sum sum) {
    uint32_t piece = 0;
    row *= s->own;
#ifdef NTKLC_HAS_PLAIN
    if (s->mode == NTKLC_PLAIN) {
        return (ntklc_value)(ntklc_gains[s->gains + row] * sum + ntklc_starts[s->gains + row]);
    }
#endif
#ifdef NTKLC_HAS_LINE
    if (s->mode == NTKLC_LINE) {
        ntklc_sum at = ntklc_gains[s->gains + row] * sum + ntklc_starts[s->gains + row];
        if (at > 0) piece = (uint32_t)at >> s->shift;
        if (piece > s->last) piece = s->last;
    }
#endif
#ifdef NTKLC_HAS_BOUNDS
    if (s->mode == NTKLC_BOUNDS) {
        const ntklc_bound *bound = ntklc_bounds + s->gains + row * s->last;
        while (piece < s->last && sum > bound[piece]) piece++;
    }
#endif
#ifdef NTKLC_HAS_TABLE
    if (s->table) return ntklc_table[s->table + piece];
#endif
    return (ntklc_value)((int32_t)piece + s->first);
}

/* Where a row of a stage is kept. */
static inline uint32_t ntklc_place_of(const ntklc_stage *s, uint32_t row) {
    while (row >= s->ring) row -= s->ring;
    return s->at + row * s->columns * s->channels;
}

static inline ntklc_sum ntklc_inner(
    ntklc_reader *r, const ntklc_value *values, uint32_t length) {
    ntklc_sum sum = 0;
    uint32_t i;
    for (i = 0; (i += ntklc_skip(r, length - i)) < length; i++) {
        sum += (ntklc_sum)r->weight * values[i];
    }
    return sum;
}

static inline void ntklc_dense(const ntklc_stage *s, ntklc_workspace *w) {
    const ntklc_value *values = w->values + ntklc_stages[s->in].at;
    ntklc_reader r;
    uint32_t row;
    ntklc_open(&r, s);
    for (row = 0; row < s->channels; row++) {
        ntklc_sum sum = ntklc_inner(&r, values, s->length);
        w->values[s->at + row] = ntklc_stair(s, row, sum);
    }
}

/* Of the highest scores the first. */
static inline void ntklc_score_all(const ntklc_stage *s, ntklc_workspace *w) {
    const ntklc_value *values = w->values + ntklc_stages[s->in].at;
    ntklc_score best = 0;
    ntklc_reader r;
    uint32_t row;
    ntklc_open(&r, s);
    for (row = 0; row < NTKLC_CLASSES; row++) {
        ntklc_score score = ntklc_inner(&r, values, s->length);
        score = score * ntklc_factors[row] + ntklc_offsets[row];
        if (!row || score > best) {
            best = score;
            w->found = (ntklc_place)row;
        }
    }
}

#ifdef NTKLC_HAS_WEIGHTS
/* Sums of a row of one channel, for all its columns side by side. */
static inline void ntklc_channel(
    const ntklc_stage *s, ntklc_workspace *w, ntklc_reader *r, uint32_t y, uint32_t first) {
    const ntklc_stage *from = ntklc_stages + s->in;
    int32_t wide = (int32_t)from->channels, hop = (int32_t)s->stride_x * wide;
    uint32_t across = (uint32_t)s->columns * s->pool_x, i, j, c;
    for (i = 0; i < across; i++) w->sums[i] = 0;
    for (i = 0; i < s->height; i++) {
        int32_t row = (int32_t)(y * s->stride_y + i * s->spread_y) - (int32_t)s->pad_y;
        const ntklc_value *line = 0;
        if (row >= 0 && row < (int32_t)from->rows) {
            line = w->values + ntklc_place_of(from, (uint32_t)row) + first;
        }
        for (j = 0; j < s->width; j++) {
            int32_t at = ((int32_t)(j * s->spread_x) - (int32_t)s->pad_x) * wide;
            int32_t end = at + (int32_t)across * hop, last = (int32_t)from->columns * wide;
            ntklc_sum *start = w->sums;
            if (end > last) end = last;
            for (; at < 0; at += hop) start++;
            for (c = 0; (c += ntklc_skip(r, s->depth - c)) < s->depth; c++) {
                ntklc_sum *sum = start, weight = r->weight;
                int32_t k;
                if (line) {
                    const ntklc_value *value = line + c;
                    for (k = at; k < end; k += hop) *sum++ += weight * value[k];
                }
            }
        }
    }
}

static inline void ntklc_convolve(const ntklc_stage *s, ntklc_workspace *w, uint32_t k) {
    uint32_t y = (uint32_t)w->made[k] * s->pool_y + w->part[k], row, x, n, first = 0, of = 0;
    ntklc_reader r;
    ntklc_open(&r, s);
    for (row = 0; row < s->channels; row++, of++) {
        ntklc_value *out = w->values + ntklc_place_of(s, w->made[k]) + row;
        const ntklc_sum *sum = w->sums;
        if (of == s->outputs) {
            of = 0;
            first += s->depth;
        }
        ntklc_channel(s, w, &r, y, first);
        for (x = 0; x < s->columns; x++, out += s->channels) {
            for (n = 0; n < s->pool_x; n++) {
                ntklc_value value = ntklc_stair(s, row, *sum++);
                if ((!n && !w->part[k]) || value > *out) *out = value;
            }
        }
    }
}
#endif

#ifdef NTKLC_HAS_POOL
/* The largest, or the sum, of a channel over a window; padding is in neither. */
static inline void ntklc_pool(const ntklc_stage *s, ntklc_workspace *w, uint32_t y) {
    const ntklc_stage *from = ntklc_stages + s->in;
    ntklc_value *out = w->values + ntklc_place_of(s, y);
    uint32_t x, c, i, j;
    for (x = 0; x < s->columns; x++) {
        for (c = 0; c < s->channels; c++) {
            ntklc_sum sum = 0;
            int seen = 0;
            for (i = 0; i < s->height; i++) {
                int32_t row = (int32_t)(y * s->stride_y + i) - (int32_t)s->pad_y;
                if (row < 0 || row >= (int32_t)from->rows) continue;
                for (j = 0; j < s->width; j++) {
                    int32_t column = (int32_t)(x * s->stride_x + j) - (int32_t)s->pad_x;
                    ntklc_sum value;
                    if (column < 0 || column >= (int32_t)from->columns) continue;
                    value = w->values[ntklc_place_of(from, (uint32_t)row) +
                                      (uint32_t)column * from->channels + c];
                    if (s->kind == NTKLC_SUM) sum += value;
                    else if (!seen || value > sum) sum = value;
                    seen = 1;
                }
            }
            *out++ = ntklc_stair(s, c, sum);
        }
    }
}
#endif

#ifdef NTKLC_HAS_ADD
static inline void ntklc_add(const ntklc_stage *s, ntklc_workspace *w, uint32_t y) {
    const ntklc_value *one = w->values + ntklc_place_of(ntklc_stages + s->in, y);
    const ntklc_value *two = w->values + ntklc_place_of(ntklc_stages + s->other, y);
    ntklc_value *out = w->values + ntklc_place_of(s, y);
    uint32_t x, c;
    for (x = 0; x < s->columns; x++) {
        for (c = 0; c < s->channels; c++) {
            ntklc_sum sum = (ntklc_sum)s->times * *one++ + (ntklc_sum)s->times_other * *two++;
            *out++ = ntklc_stair(s, c, sum);
        }
    }
}
#endif

/* Whether a stage has the rows of another that its next row takes. */
static inline int ntklc_served(
    const ntklc_workspace *w, const ntklc_stage *s, uint32_t k, uint32_t of) {
    uint32_t y = (uint32_t)w->made[k] * s->pool_y + w->part[k];
    int32_t need = (int32_t)(y * s->stride_y + (s->height - 1u) * s->spread_y + 1u) - (int32_t)s->pad_y;
    int32_t most = (int32_t)ntklc_stages[of].rows;
    return (int32_t)w->made[of] >= (need < most ? need : most);
}

static inline void ntklc_row_of(ntklc_workspace *w, uint32_t k) {
    const ntklc_stage *s = ntklc_stages + k;
    switch (s->kind) {
#ifdef NTKLC_HAS_WEIGHTS
    case NTKLC_WEIGHTS: ntklc_convolve(s, w, k); break;
#endif
#ifdef NTKLC_HAS_POOL
    case NTKLC_MAX:
    case NTKLC_SUM: ntklc_pool(s, w, w->made[k]); break;
#endif
#ifdef NTKLC_HAS_ADD
    case NTKLC_ADD: ntklc_add(s, w, w->made[k]); break;
#endif
#ifdef NTKLC_HAS_DENSE
    case NTKLC_DENSE: ntklc_dense(s, w); break;
#endif
    default: ntklc_score_all(s, w);
    }
    if (++w->part[k] == s->pool_y) {
        w->part[k] = 0;
        w->made[k]++;
    }
}

/* Before the first row of an input. */
static inline void ntklc_start_input(ntklc_workspace *w) {
    uint32_t k;
    for (k = 0; k < NTKLC_STAGES; k++) w->made[k] = w->part[k] = 0;
}

/* The next row of an input, NTKLC_COLUMNS numbers of each channel; channels lie `apart` numbers.
   Nothing of it is needed afterwards. */
static inline void ntklc_take_row(ntklc_workspace *w, const uint8_t *row, uint32_t apart) {
    const ntklc_stage *s = ntklc_stages;
    ntklc_value *out;
    uint32_t x, c, k;
    if (w->made[0] >= s->rows) return;
    out = w->values + ntklc_place_of(s, w->made[0]);
    for (x = 0; x < s->columns; x++) {
        for (c = 0; c < s->channels; c++) *out++ = ntklc_stair(s, c, row[c * apart + x]);
    }
    w->made[0]++;
    for (k = NTKLC_STAGES - 1; k;) {
        s = ntklc_stages + k;
        if (w->made[k] < s->rows && ntklc_served(w, s, k, s->in) &&
            ntklc_served(w, s, k, s->other)) {
            ntklc_row_of(w, k);
            k = NTKLC_STAGES;
        }
        k--;
    }
}

/* The class of an input whose rows have all been taken, from 0; -1 before. */
static inline int ntklc_class(const ntklc_workspace *w) {
    return w->made[NTKLC_STAGES - 1] ? (int)w->found : -1;
}

/* The class, from 0 to NTKLC_CLASSES - 1, of NTKLC_INPUTS numbers: channels of rows of columns. */
static inline int ntklc_classify(const uint8_t *input, ntklc_workspace *w) {
    uint32_t y;
    ntklc_start_input(w);
    for (y = 0; y < NTKLC_ROWS; y++) {
        ntklc_take_row(w, input + y * NTKLC_COLUMNS, NTKLC_ROWS * NTKLC_COLUMNS);
    }
    return ntklc_class(w);
}
