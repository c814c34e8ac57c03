#pragma once
// Which instructions this folder computes with: the most that the processor and the system offer, or as
// COPPICE_MAX_ISA says, which shows what another processor would compute (the contract tests do so). They are
// levels, each with what those below have:
//
//   avx2         with FMA: the least that this folder runs on
//   avx512       the kernels of Highway in AVX-512 (F, BW, DQ, VL)
//   avx512_bf16  bfloat16 products on VDPBF16PS
//   amx          those on tiles, TDPBF16PS
//
// All bits depend on the level, and on nothing else of the processor. Nobody else asks Highway for its
// targets: to ask is to choose (instruction_set.cc). What is asked here first makes the choice, before the
// first kernel; after that no answer changes. Thread: any. Errors: kInvalid for a COPPICE_MAX_ISA that is
// none of them.

#include <string>

namespace coppice {

std::string cpu_instruction_set();  // the level's name; "none" below AVX2

bool has_amx();
bool has_bf16_products();  // VDPBF16PS, also wherever there is AMX
bool has_avx2();

}  // namespace coppice
