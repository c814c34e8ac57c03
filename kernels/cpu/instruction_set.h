#pragma once
// Which instructions this folder computes with. oneDNN chooses by the processor and by its variable
// ONEDNN_MAX_CPU_ISA, and all else follows it: the kernels of Highway are AVX-512 where oneDNN has that and
// AVX2 elsewhere, and bfloat16 products take VDPBF16PS where oneDNN has it. So one name says what all bits
// depend on, and the variable shows what another processor would compute (the contract tests do so).
//
// Nobody else asks Highway for its targets: to ask is to choose (instruction_set.cc). What is asked here
// first makes the choice, before the first kernel; after that no answer changes. Thread: any.

#include <string>

namespace coppice {

// "avx512_core_bf16, avx512": oneDNN's name for what it uses, and Highway's.
std::string cpu_instruction_set();

bool has_amx();            // bfloat16 projections are oneDNN's
bool has_bf16_products();  // VDPBF16PS, also wherever there is AMX
bool has_avx2();           // the least that this folder runs on

}  // namespace coppice
