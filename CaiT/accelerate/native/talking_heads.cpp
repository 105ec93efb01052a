// SPDX-License-Identifier: Apache-2.0
// talking_heads.h over a batch, forward and backward, for training: functions called by fused.py. OpenMP is Paddle's own
// (libiomp5).
#include <atomic>
#include "talking_heads.h"

extern "C" int omp_get_max_threads(void);

namespace {

template <class T> int forward(const T* qkv, T* out, int batch, int tokens, const float* before, const float* after,
                               const float* bias) {
    const int threads = omp_get_max_threads(), parts = batch >= threads ? 1 : (threads + batch - 1) / batch;
    std::atomic<int> next{0}, failed{0};  // images taken one by one: libiomp5 lacks libgomp's dynamic loops
#pragma omp parallel
    for (int task; (task = next++) < batch * parts;)
        if (forward_task(qkv, out, task, parts, tokens, before, after, bias)) failed = 1;
    return failed;
}

template <class T> int backward(const T* qkv, const T* out_grad, T* qkv_grad, int batch, int tokens,
                                const float* before, const float* after, const float* bias, float* gradients) {
    float* per_image = (float*)malloc(sizeof(float) * batch * GRADIENTS);
    if (!per_image) return 1;
    std::atomic<int> next{0}, failed{0};
#pragma omp parallel
    for (int task; (task = next++) < batch;) {
        const long image = task;
        if (backward_image(qkv + image * tokens * 3 * CHANNELS, out_grad + image * tokens * CHANNELS,
                           qkv_grad + image * tokens * 3 * CHANNELS, tokens, before, after, bias,
                           per_image + image * GRADIENTS))
            failed = 1;
    }
    for (int i = 0; i < GRADIENTS; i++) {  // in the order of the images, whichever thread had them
        double sum = 0;
        for (int b = 0; b < batch; b++) sum += per_image[(long)b * GRADIENTS + i];
        gradients[i] = (float)sum;
    }
    free(per_image);
    return failed;
}

}  // namespace

#define PARAMETERS int batch, int tokens, const float *before, const float *after, const float *bias
extern "C" int forward_float32(const float* qkv, float* out, PARAMETERS) {
    return forward(qkv, out, batch, tokens, before, after, bias);
}
extern "C" int backward_float32(const float* qkv, const float* out_grad, float* qkv_grad, PARAMETERS, float* grads) {
    return backward(qkv, out_grad, qkv_grad, batch, tokens, before, after, bias, grads);
}
#ifdef __AVX512BF16__
extern "C" int forward_bfloat16(const bfloat16* qkv, bfloat16* out, PARAMETERS) {
    return forward(qkv, out, batch, tokens, before, after, bias);
}
extern "C" int backward_bfloat16(const bfloat16* qkv, const bfloat16* out_grad, bfloat16* qkv_grad, PARAMETERS,
                                 float* grads) {
    return backward(qkv, out_grad, qkv_grad, batch, tokens, before, after, bias, grads);
}
#endif
