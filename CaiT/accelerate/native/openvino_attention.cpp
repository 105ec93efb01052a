// SPDX-License-Identifier: Apache-2.0
// talking_heads.h as an operation of OpenVINO, TalkingHeads<HEADS>, on the threads that OpenVINO gives to a stream (TBB).
//
// Inputs: qkv [B, N, 3 * HEADS * HEAD_DIM] in float32 or bfloat16, the mixing before the softmax (times the scale) and
// after it [HEADS, HEADS], and the bias of the latter [HEADS], in float32. Output [B, N, HEADS * HEAD_DIM], as qkv.
#include <tbb/parallel_for.h>
#include <tbb/task_arena.h>
#include <atomic>
#include <openvino/core/extension.hpp>
#include <openvino/core/op_extension.hpp>
#include <openvino/op/op.hpp>
#include "talking_heads.h"

#define TEXT(value) #value
#define NAME(heads) "TalkingHeads" TEXT(heads)

namespace {

template <class T> bool forward(const ov::TensorVector& inputs, ov::Tensor& output) {
    const int batch = (int)inputs[0].get_shape()[0], tokens = (int)inputs[0].get_shape()[1];
    const T* qkv = (const T*)inputs[0].data();
    T* out = (T*)output.data();
    const float *before = inputs[1].data<float>(), *after = inputs[2].data<float>(), *bias = inputs[3].data<float>();
    const int threads = tbb::this_task_arena::max_concurrency(), parts = (threads + batch - 1) / batch;
    std::atomic<bool> failed{false};
    tbb::parallel_for(0, batch * parts, [&](int task) {
        if (forward_task(qkv, out, task, parts, tokens, before, after, bias)) failed = true;
    });
    return !failed;
}

class TalkingHeads : public ov::op::Op {
public:
    OPENVINO_OP(NAME(HEADS), "cait");
    TalkingHeads() = default;
    explicit TalkingHeads(const ov::OutputVector& inputs) : Op(inputs) { constructor_validate_and_infer_types(); }

    void validate_and_infer_types() override {
        ov::PartialShape shape = get_input_partial_shape(0);
        NODE_VALIDATION_CHECK(this, shape.size() == 3 && shape[2] == 3 * CHANNELS, "qkv is not [B, N, 3 * H * 48]");
        shape[2] = CHANNELS;
        set_output_type(0, get_input_element_type(0), shape);
    }
    std::shared_ptr<ov::Node> clone_with_new_inputs(const ov::OutputVector& inputs) const override {
        return std::make_shared<TalkingHeads>(inputs);
    }
    bool visit_attributes(ov::AttributeVisitor&) override { return true; }
    bool has_evaluate() const override { return true; }
    bool evaluate(ov::TensorVector& outputs, const ov::TensorVector& inputs) const override {
        ov::Shape shape = inputs[0].get_shape();
        shape[2] = CHANNELS;
        outputs[0].set_shape(shape);
        if (inputs[0].get_element_type() == ov::element::f32) return forward<float>(inputs, outputs[0]);
#ifdef __AVX512BF16__
        if (inputs[0].get_element_type() == ov::element::bf16) return forward<bfloat16>(inputs, outputs[0]);
#endif
        return false;
    }
};

}  // namespace

OPENVINO_CREATE_EXTENSIONS(
    std::vector<ov::Extension::Ptr>({std::make_shared<ov::OpExtension<TalkingHeads>>()}));
