// SPDX-License-Identifier: Apache-2.0
// Runs the kernel on arrays of exactly the size that it may touch: AddressSanitizer reports anything beyond.
#include <stdio.h>
#include <random>
#include <vector>
#include "../../CaiT/accelerate/native/talking_heads.cpp"

template <class T> std::vector<T> filled(size_t size, std::mt19937& random) {
    std::vector<T> values(size);
    for (T& value : values) value = (T)(random() % 7);  // as bfloat16: tiny numbers
    values.shrink_to_fit();
    return values;
}

template <class T> int check(int batch, int tokens, std::mt19937& random) {
    const size_t size = (size_t)batch * tokens * CHANNELS;
    auto qkv = filled<T>(3 * size, random), out = filled<T>(size, random), grad = filled<T>(size, random);
    auto qkv_grad = filled<T>(3 * size, random);
    auto before = filled<float>(H * H, random), after = filled<float>(H * H, random), bias = filled<float>(H, random);
    auto gradients = filled<float>(GRADIENTS, random);
    return forward(qkv.data(), out.data(), batch, tokens, before.data(), after.data(), bias.data()) +
           backward(qkv.data(), grad.data(), qkv_grad.data(), batch, tokens, before.data(), after.data(), bias.data(),
                    gradients.data());
}

int main() {
    std::mt19937 random(0);
    int failures = 0;
    for (int tokens : {1, 2, 15, 16, 17, 27, 28, 29, 50, 57, 196, 197, 785})
        for (int batch : {1, 2, 3}) {
            if (tokens == 785 && batch > 1) continue;
            failures += check<float>(batch, tokens, random);
#ifdef __AVX512BF16__
            failures += check<bfloat16>(batch, tokens, random);
#endif
        }
    printf("%d failures\n", failures);
    return failures != 0;
}
