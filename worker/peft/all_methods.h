#pragma once
// The list of methods: one line each. The objects live as long as the program and have no state. Thread: any.

namespace coppice {

class Method;

const Method& lora_method();
const Method& ia3_method();
const Method& prefix_tuning_method();
const Method& prompt_tuning_method();
const Method& bottleneck_method();

}  // namespace coppice
