// SPDX-License-Identifier: Apache-2.0
// Small matrix products on one thread with AVX-512, in float32 or bfloat16 (sums in float32).
//
// A "unit" is four bytes: one float, or two bfloat16 that are neighbors in the summed dimension and are multiplied by
// one instruction. Matrices are given as float pointers with steps in units.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

constexpr int HEAD_DIM = 48;               // channels of a head, in every CaiT
constexpr int HEAD_VECTORS = HEAD_DIM / 16;  // of 16 floats

typedef uint16_t bfloat16;

template <class T> constexpr bool is_bfloat16 = sizeof(T) == 2;
template <class T> constexpr int per_unit = 4 / sizeof(T);

INLINE __m512 load(const float* p) { return _mm512_loadu_ps(p); }
INLINE void store(float* p, __m512 x) { _mm512_storeu_ps(p, x); }
INLINE __m512 load(const bfloat16* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
}
INLINE __m512 broadcast_unit(const float* p) {
    int32_t unit;
    memcpy(&unit, p, 4);
    return _mm512_castsi512_ps(_mm512_set1_epi32(unit));
}

#ifdef __AVX512BF16__
INLINE __m256i rounded(__m512 x) { return (__m256i)_mm512_cvtneps_pbh(x); }
INLINE void store(bfloat16* p, __m512 x) { _mm256_storeu_si256((__m256i*)p, rounded(x)); }
// Units of two vectors: x in the lower halves, y in the upper.
INLINE __m512i units(__m512 x, __m512 y) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(rounded(x)), _mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded(y)), 16));
}
INLINE __m512 multiply_bfloat16(__m512 a, __m512 b, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}
#else
INLINE void store(bfloat16*, __m512) {}
INLINE __m512i units(__m512, __m512) { return _mm512_setzero_si512(); }
INLINE __m512 multiply_bfloat16(__m512, __m512, __m512 sum) { return sum; }
#endif

template <bool BF16> INLINE __m512 multiply_add(__m512 a, __m512 b, __m512 sum) {
    if constexpr (BF16) return multiply_bfloat16(a, b, sum);
    else return _mm512_fmadd_ps(a, b, sum);
}

// 2^x for x <= 0, by a polynomial on [-0.5, 0.5]; coarser where the result is rounded to bfloat16.
template <bool BF16> INLINE __m512 exp2_of(__m512 x) {
    __m512 whole = _mm512_roundscale_ps(x, 0), part = _mm512_sub_ps(x, whole), y;
    if constexpr (BF16) {
        y = _mm512_fmadd_ps(_mm512_set1_ps(5.4602096724e-02f), part, _mm512_set1_ps(2.4258006019e-01f));
        y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9344227661e-01f));
    } else {
        y = _mm512_fmadd_ps(_mm512_set1_ps(1.3221798843e-03f), part, _mm512_set1_ps(9.6772178599e-03f));
        y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(5.5509584796e-02f));
        y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(2.4022134065e-01f));
        y = _mm512_fmadd_ps(y, part, _mm512_set1_ps(6.9314673992e-01f));
    }
    return _mm512_scalef_ps(_mm512_fmadd_ps(y, part, _mm512_set1_ps(1.f)), whole);
}

// Products -----------------------------------------------------------------------------------------------------------

// c[r][16 v ...] = (or +=) sum over k < depth of unit a[r * a_row + k * a_step] times units b[k * b_row + 16 v ...], for
// ROWS rows and VECTORS vectors of 16 columns: what fits into registers.
template <bool BF16, int ROWS, int VECTORS, bool ADD>
INLINE void block(const float* a, long a_row, long a_step, const float* b, long b_row, int depth, float* c, long c_row) {
    __m512 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) sum[r][v] = ADD ? load(c + r * c_row + 16 * v) : _mm512_setzero_ps();
    for (int k = 0; k < depth; k++) {
        __m512 columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) columns[v] = load(b + k * b_row + 16 * v);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            __m512 x = broadcast_unit(a + r * a_row + k * a_step);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++) sum[r][v] = multiply_add<BF16>(x, columns[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) store(c + r * c_row + 16 * v, sum[r][v]);
}

// The same for any number of rows.
template <bool BF16, int VECTORS, bool ADD>
static void multiply(int rows, const float* a, long a_row, long a_step, const float* b, long b_row, int depth, float* c,
                     long c_row) {
    int r = 0;
    for (; r + 8 <= rows; r += 8)
        block<BF16, 8, VECTORS, ADD>(a + r * a_row, a_row, a_step, b, b_row, depth, c + r * c_row, c_row);
    for (; r + 2 <= rows; r += 2)
        block<BF16, 2, VECTORS, ADD>(a + r * a_row, a_row, a_step, b, b_row, depth, c + r * c_row, c_row);
    if (r < rows) block<BF16, 1, VECTORS, ADD>(a + r * a_row, a_row, a_step, b, b_row, depth, c + r * c_row, c_row);
}

// c [rows, 16 * vectors] = a [rows, depth] times b [depth, 16 * vectors].
template <bool BF16>
static void multiply_wide(int rows, int vectors, const float* a, long a_row, const float* b, long b_row, int depth,
                          float* c, long c_row) {
    int v = 0;
    for (; v + 3 <= vectors; v += 3)
        multiply<BF16, 3, false>(rows, a, a_row, 1, b + 16 * v, b_row, depth, c + 16 * v, c_row);
    for (; v < vectors; v++)
        multiply<BF16, 1, false>(rows, a, a_row, 1, b + 16 * v, b_row, depth, c + 16 * v, c_row);
}

// Layouts ------------------------------------------------------------------------------------------------------------

// Tokens [count][HEAD_DIM], ``step`` values apart, as units of neighboring channels [HEAD_DIM / per_unit][padded].
template <class T> static void transpose(const T* from, long step, int count, int padded, float* to) {
    const int depth = HEAD_DIM / per_unit<T>;
    const float* units_from = (const float*)from;
    const long units_step = step / per_unit<T>;
    for (int k = 0; k < depth; k++) {
        for (int n = 0; n < count; n++) to[(long)k * padded + n] = units_from[n * units_step + k];
        for (int n = count; n < padded; n++) to[(long)k * padded + n] = 0.f;
    }
}

// Tokens as units of neighboring tokens: [count][HEAD_DIM] floats, or [(count + 1) / 2][HEAD_DIM] of two bfloat16.
static void pack(const float* from, long step, int count, float* to) {
    for (int n = 0; n < count; n++)
        for (int v = 0; v < HEAD_VECTORS; v++) store(to + n * HEAD_DIM + 16 * v, load(from + n * step + 16 * v));
}
static void pack(const bfloat16* from, long step, int count, float* to) {
    for (int n = 0; n < count; n += 2)
        for (int v = 0; v < HEAD_VECTORS; v++) {
            const bfloat16* p = from + n * step + 16 * v;
            __m512i lower = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p));
            __m512i upper = _mm512_setzero_si512();
            if (n + 1 < count) upper = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(p + step)));
            _mm512_storeu_si512(to + n / 2 * HEAD_DIM + 16 * v, _mm512_or_si512(lower, _mm512_slli_epi32(upper, 16)));
        }
}

// Memory of one thread, kept for its next call.
struct Scratch {
    float* memory = nullptr;
    size_t size = 0;
    float* get(size_t floats) {
        if (floats > size) {
            free(memory);
            memory = (float*)aligned_alloc(4096, (floats * 4 + 4095) / 4096 * 4096);
            size = memory ? floats : 0;
        }
        return memory;
    }
    ~Scratch() { free(memory); }
};
