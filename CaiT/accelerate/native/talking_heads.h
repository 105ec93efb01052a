// SPDX-License-Identifier: Apache-2.0
// Talking-heads attention of one image in one pass, forward and backward, for HEADS heads (a macro) of HEAD_DIM channels.
//
// Per image and tile of queries the scores S of all heads stay in the processor's cache; nothing of size N x N is
// written to memory, the backward pass computes it again:
//
//     S_i = Q_i K_i^T                      L, W: weights [in, out] of the mixing before and after the softmax,
//     M_o = sum_i L_io S_i                 L multiplied by the scale of the scores
//     P_o = softmax(M_o)                   its bias adds the same to a row, which softmax does not see
//     A_o = sum_i W_io P_i + bias_o
//     out_o = A_o V_o
//
// qkv [B, N, 3, HEADS, HEAD_DIM], out and its gradient [B, N, HEADS, HEAD_DIM], all float32 or all bfloat16; weights,
// bias and their gradients float32. Functions return 0, or 1 when memory is short.
#pragma once
#include <math.h>
#include "products.h"

namespace {

constexpr int H = HEADS, CHANNELS = H * HEAD_DIM, TILE = 28;  // queries of a tile
constexpr int GRADIENTS = 2 * H * H + H;                      // of L, W and bias
constexpr float LOG2_E = 1.44269504f;
thread_local Scratch scratch;

// Sizes of an image: tokens, padded to whole vectors, and which lanes of the last vector are tokens.
struct Sizes {
    int tokens, vectors, padded;
    __mmask16 last;
    long head;   // from one head's tile to the next, in floats
    long panel;  // from one head's keys to the next
    explicit Sizes(int n)
        : tokens(n), vectors((n + 15) / 16), padded(vectors * 16), last(n % 16 ? (1 << n % 16) - 1 : 0xffff),
          head((long)TILE * padded), panel((long)HEAD_DIM * padded) {}
    __mmask16 lanes(int vector) const { return vector == vectors - 1 ? last : 0xffff; }
};

// One query: its scores of all heads to exp2(M - maximum), and 1 / their sum. ``mixing`` includes log2(e).
template <bool BF16> INLINE void softmax(const Sizes& size, const float* scores, float* powers, const float* mixing,
                                         float* inverse_sum) {
    __m512 largest[H];
    for (int o = 0; o < H; o++) largest[o] = _mm512_set1_ps(-INFINITY);
    for (int v = 0; v < size.vectors; v++) {
        __m512 x[H];
#pragma GCC unroll 8
        for (int i = 0; i < H; i++) x[i] = load(scores + i * size.head + 16 * v);
#pragma GCC unroll 8
        for (int o = 0; o < H; o++) {
            __m512 y = _mm512_mul_ps(x[0], _mm512_set1_ps(mixing[o]));
#pragma GCC unroll 8
            for (int i = 1; i < H; i++) y = _mm512_fmadd_ps(x[i], _mm512_set1_ps(mixing[i * H + o]), y);
            largest[o] = _mm512_mask_max_ps(largest[o], size.lanes(v), largest[o], y);
            store(powers + o * size.head + 16 * v, y);
        }
    }
    for (int o = 0; o < H; o++) {
        float* row = powers + o * size.head;
        __m512 maximum = _mm512_set1_ps(_mm512_reduce_max_ps(largest[o])), sum = _mm512_setzero_ps();
        for (int v = 0; v < size.vectors; v++) {
            __m512 y = exp2_of<BF16>(_mm512_sub_ps(load(row + 16 * v), maximum));
            y = _mm512_maskz_mov_ps(size.lanes(v), y);
            store(row + 16 * v, y);
            sum = _mm512_add_ps(sum, y);
        }
        inverse_sum[o] = 1.f / _mm512_reduce_add_ps(sum);
    }
}

// One query: A of all heads from P times the sums.
INLINE void mix(const Sizes& size, const float* powers, float* attn, const float* mixing, const float* inverse_sum,
                const float* bias) {
    float scaled[H * H];
    for (int i = 0; i < H; i++)
        for (int o = 0; o < H; o++) scaled[i * H + o] = mixing[i * H + o] * inverse_sum[i];
    for (int v = 0; v < size.vectors; v++) {
        __m512 x[H];
#pragma GCC unroll 8
        for (int i = 0; i < H; i++) x[i] = load(powers + i * size.head + 16 * v);
#pragma GCC unroll 8
        for (int o = 0; o < H; o++) {
            __m512 y = _mm512_set1_ps(bias[o]);
#pragma GCC unroll 8
            for (int i = 0; i < H; i++) y = _mm512_fmadd_ps(x[i], _mm512_set1_ps(scaled[i * H + o]), y);
            store(attn + o * size.head + 16 * v, _mm512_maskz_mov_ps(size.lanes(v), y));
        }
    }
}

// Queries ``begin`` to ``end`` of one image.
template <class T> int forward_part(const T* qkv, T* out, int tokens, const float* before, const float* after,
                                    const float* bias, int begin, int end) {
    constexpr bool BF16 = is_bfloat16<T>;
    const Sizes size(tokens);
    float* keys = scratch.get(2 * H * size.panel + 2 * H * size.head + TILE * HEAD_DIM);
    if (!keys) return 1;
    float *values = keys + H * size.panel, *scores = values + H * size.panel, *powers = scores + H * size.head;
    float *result = powers + H * size.head, before_log2[H * H];
    for (int i = 0; i < H * H; i++) before_log2[i] = before[i] * LOG2_E;
    for (int h = 0; h < H; h++) {
        transpose(qkv + CHANNELS + h * HEAD_DIM, 3 * CHANNELS, tokens, size.padded, keys + h * size.panel);
        pack(qkv + 2 * CHANNELS + h * HEAD_DIM, 3 * CHANNELS, tokens, values + h * size.panel);
    }
    for (int first = begin; first < end; first += TILE) {
        const int rows = end - first < TILE ? end - first : TILE;
        for (int h = 0; h < H; h++)
            multiply_wide<BF16>(rows, size.vectors, (const float*)(qkv + first * 3L * CHANNELS + h * HEAD_DIM),
                                3 * CHANNELS / per_unit<T>, keys + h * size.panel, size.padded, HEAD_DIM / per_unit<T>,
                                scores + h * size.head, size.padded);
        for (int r = 0; r < rows; r++) {
            float inverse_sum[H], *row = scores + (long)r * size.padded, *power = powers + (long)r * size.padded;
            softmax<BF16>(size, row, power, before_log2, inverse_sum);
            mix(size, power, row, after, inverse_sum, bias);
        }
        for (int h = 0; h < H; h++) {
            const float* attn = scores + h * size.head;
            if constexpr (BF16) {  // units of neighboring keys: the same order, rounded
                bfloat16* small = (bfloat16*)(powers + h * size.head);
                for (long i = 0; i < (long)rows * size.padded; i += 16) store(small + i, load(attn + i));
                attn = (const float*)small;
            }
            multiply<BF16, HEAD_VECTORS, false>(rows, attn, size.padded / per_unit<T>, 1, values + h * size.panel,
                                                HEAD_DIM, (tokens + per_unit<T> - 1) / per_unit<T>, result, HEAD_DIM);
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < HEAD_VECTORS; v++)
                    store(out + (first + r) * (long)CHANNELS + h * HEAD_DIM + 16 * v,
                          load(result + r * HEAD_DIM + 16 * v));
        }
    }
    return 0;
}

// Task ``task`` of a batch whose images are divided into ``parts`` of their queries each.
template <class T> int forward_task(const T* qkv, T* out, int task, int parts, int tokens, const float* before,
                                    const float* after, const float* bias) {
    const long image = task / parts;
    const int step = (tokens + parts - 1) / parts;
    const int begin = task % parts * step, end = begin + step < tokens ? begin + step : tokens;
    return forward_part(qkv + image * tokens * 3 * CHANNELS, out + image * tokens * CHANNELS, tokens, before, after, bias,
                        begin, end);
}

// Sums over all queries and keys of an image, for the gradients of L, W and bias.
struct Sums {
    __m512 before[H][H], after[H][H], bias[H];
};

// One query: from S, P (in ``powers``) and the gradient of A (in ``grads``) to A (in ``attn``) and the gradient of S.
template <bool BF16> INLINE void query_backward(const Sizes& size, const float* scores, float* powers, float* grads,
                                                float* attn, const float* before_log2, const float* before,
                                                const float* after, const float* bias, Sums& sums) {
    float inverse_sum[H], correction[H];
    __m512 dot[H];
    softmax<BF16>(size, scores, powers, before_log2, inverse_sum);
    for (int h = 0; h < H; h++) dot[h] = _mm512_setzero_ps();
    for (int v = 0; v < size.vectors; v++) {
        __m512 p[H], g[H];
        for (int h = 0; h < H; h++) {
            p[h] = _mm512_mul_ps(load(powers + h * size.head + 16 * v), _mm512_set1_ps(inverse_sum[h]));
            store(powers + h * size.head + 16 * v, p[h]);
            g[h] = load(grads + h * size.head + 16 * v);
        }
        for (int j = 0; j < H; j++) {
            __m512 a = _mm512_set1_ps(bias[j]), p_grad = _mm512_setzero_ps();
            for (int i = 0; i < H; i++) {
                a = _mm512_fmadd_ps(p[i], _mm512_set1_ps(after[i * H + j]), a);
                p_grad = _mm512_fmadd_ps(g[i], _mm512_set1_ps(after[j * H + i]), p_grad);
                sums.after[i][j] = _mm512_fmadd_ps(p[i], g[j], sums.after[i][j]);
            }
            store(attn + j * size.head + 16 * v, _mm512_maskz_mov_ps(size.lanes(v), a));
            store(grads + j * size.head + 16 * v, p_grad);
            dot[j] = _mm512_fmadd_ps(p[j], p_grad, dot[j]);
            sums.bias[j] = _mm512_add_ps(sums.bias[j], g[j]);
        }
    }
    for (int h = 0; h < H; h++) correction[h] = _mm512_reduce_add_ps(dot[h]);
    for (int v = 0; v < size.vectors; v++) {
        __m512 s[H], m_grad[H];
        for (int h = 0; h < H; h++) {
            s[h] = load(scores + h * size.head + 16 * v);
            m_grad[h] = _mm512_mul_ps(load(powers + h * size.head + 16 * v),
                                      _mm512_sub_ps(load(grads + h * size.head + 16 * v),
                                                    _mm512_set1_ps(correction[h])));
        }
        for (int j = 0; j < H; j++) {
            __m512 s_grad = _mm512_setzero_ps();
            for (int i = 0; i < H; i++) {
                s_grad = _mm512_fmadd_ps(m_grad[i], _mm512_set1_ps(before[j * H + i]), s_grad);
                sums.before[i][j] = _mm512_fmadd_ps(s[i], m_grad[j], sums.before[i][j]);
            }
            store(grads + j * size.head + 16 * v, s_grad);
        }
    }
}

// [rows][padded] floats as units of neighboring rows (of keys' gradients) and as rounded rows (of queries'). ``by_row``
// may be null, ``by_pair`` may be ``from`` itself.
INLINE void round_tile(const Sizes& size, int rows, const float* from, float* by_pair, bfloat16* by_row) {
    for (int r = 0; r < rows; r += 2)
        for (int v = 0; v < size.vectors; v++) {
            const float* p = from + (long)r * size.padded + 16 * v;
            __m512 x = load(p), y = r + 1 < rows ? load(p + size.padded) : _mm512_setzero_ps();
            _mm512_storeu_si512(by_pair + (long)(r / 2) * size.padded + 16 * v, units(x, y));
            if (!by_row) continue;
            store(by_row + (long)r * size.padded + 16 * v, x);
            if (r + 1 < rows) store(by_row + (long)(r + 1) * size.padded + 16 * v, y);
        }
}

// One image. ``gradients``: of L, W and bias, one after the other.
template <class T> int backward_image(const T* qkv, const T* out_grad, T* qkv_grad, int tokens, const float* before,
                                      const float* after, const float* bias, float* gradients) {
    constexpr bool BF16 = is_bfloat16<T>;
    constexpr int UNIT = per_unit<T>;
    const Sizes size(tokens);
    float* keys = scratch.get(5 * H * size.panel + (4 * H + 2) * size.head + 3 * TILE * HEAD_DIM);
    if (!keys) return 1;
    float *values = keys + H * size.panel, *key_rows = values + H * size.panel, *k_grad = key_rows + H * size.panel;
    float *v_grad = k_grad + H * size.panel, *scores = v_grad + H * size.panel, *powers = scores + H * size.head;
    float *grads = powers + H * size.head, *attn = grads + H * size.head, *pairs = attn + H * size.head;
    float *by_row = pairs + size.head, *result = by_row + size.head, *queries = result + TILE * HEAD_DIM;
    float *grad_rows = queries + TILE * HEAD_DIM, before_log2[H * H];
    for (int i = 0; i < H * H; i++) before_log2[i] = before[i] * LOG2_E;
    for (int h = 0; h < H; h++) {
        transpose(qkv + CHANNELS + h * HEAD_DIM, 3 * CHANNELS, tokens, size.padded, keys + h * size.panel);
        transpose(qkv + 2 * CHANNELS + h * HEAD_DIM, 3 * CHANNELS, tokens, size.padded, values + h * size.panel);
        pack(qkv + CHANNELS + h * HEAD_DIM, 3 * CHANNELS, tokens, key_rows + h * size.panel);
    }
    memset(k_grad, 0, 2 * H * size.panel * sizeof(float));
    Sums sums;
    memset(&sums, 0, sizeof sums);
    for (int first = 0; first < tokens; first += TILE) {
        const int rows = tokens - first < TILE ? tokens - first : TILE;
        const T *q = qkv + first * 3L * CHANNELS, *g = out_grad + first * (long)CHANNELS;
        for (int h = 0; h < H; h++) {
            multiply_wide<BF16>(rows, size.vectors, (const float*)(q + h * HEAD_DIM), 3 * CHANNELS / UNIT,
                                keys + h * size.panel, size.padded, HEAD_DIM / UNIT, scores + h * size.head,
                                size.padded);
            multiply_wide<BF16>(rows, size.vectors, (const float*)(g + h * HEAD_DIM), CHANNELS / UNIT,
                                values + h * size.panel, size.padded, HEAD_DIM / UNIT, grads + h * size.head,
                                size.padded);
        }
        for (int r = 0; r < rows; r++) {
            const long row = (long)r * size.padded;
            query_backward<BF16>(size, scores + row, powers + row, grads + row, attn + row, before_log2, before, after,
                                 bias, sums);
        }
        for (int h = 0; h < H; h++) {
            pack(q + h * HEAD_DIM, 3 * CHANNELS, rows, queries);
            pack(g + h * HEAD_DIM, CHANNELS, rows, grad_rows);
            float *a = attn + h * size.head, *s_grad = grads + h * size.head, *s_grad_rows = s_grad;
            if constexpr (BF16) {
                round_tile(size, rows, a, a, nullptr);
                round_tile(size, rows, s_grad, pairs, (bfloat16*)by_row);
                s_grad = pairs;
                s_grad_rows = by_row;
            }
            const int depth = (rows + UNIT - 1) / UNIT;
            multiply<BF16, HEAD_VECTORS, true>(tokens, a, 1, size.padded, grad_rows, HEAD_DIM, depth,
                                               v_grad + h * size.panel, HEAD_DIM);
            multiply<BF16, HEAD_VECTORS, true>(tokens, s_grad, 1, size.padded, queries, HEAD_DIM, depth,
                                               k_grad + h * size.panel, HEAD_DIM);
            multiply<BF16, HEAD_VECTORS, false>(rows, s_grad_rows, size.padded / UNIT, 1, key_rows + h * size.panel,
                                                HEAD_DIM, (tokens + UNIT - 1) / UNIT, result, HEAD_DIM);
            for (int r = 0; r < rows; r++)
                for (int v = 0; v < HEAD_VECTORS; v++)
                    store(qkv_grad + (first + r) * 3L * CHANNELS + h * HEAD_DIM + 16 * v,
                          load(result + r * HEAD_DIM + 16 * v));
        }
    }
    for (int h = 0; h < H; h++)
        for (int n = 0; n < tokens; n++)
            for (int v = 0; v < HEAD_VECTORS; v++) {
                T* to = qkv_grad + n * 3L * CHANNELS + CHANNELS + h * HEAD_DIM + 16 * v;
                store(to, load(k_grad + h * size.panel + n * HEAD_DIM + 16 * v));
                store(to + CHANNELS, load(v_grad + h * size.panel + n * HEAD_DIM + 16 * v));
            }
    for (int i = 0; i < H; i++) {
        for (int j = 0; j < H; j++) {
            gradients[i * H + j] = _mm512_reduce_add_ps(sums.before[i][j]);
            gradients[H * H + i * H + j] = _mm512_reduce_add_ps(sums.after[i][j]);
        }
        gradients[2 * H * H + i] = _mm512_reduce_add_ps(sums.bias[i]);
    }
    return 0;
}

}  // namespace
