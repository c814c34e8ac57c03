#pragma once
// Every operator of kernels/backend.h in every variant that a device could compute by other code: the table
// that the contract tests loop over. A new operator is a new entry here and is then tested for values, views,
// threads, company and NaN.

#include <vector>

#include "tests/contract/backend/arrays.h"

namespace coppice::contract {

enum class Family { kMatmul, kAttention, kNorm, kPointwise, kLoss, kUpdate };
constexpr Family kFamilies[] = {Family::kMatmul,    Family::kAttention, Family::kNorm,
                                Family::kPointwise, Family::kLoss,      Family::kUpdate};
std::string family_name(Family family);

// The operators of a family, in both dtypes where there are two.
std::vector<Operator> operators(Family family);

std::vector<Operator> matmul_operators(DType compute);
std::vector<Operator> attention_operators(DType compute);
std::vector<Operator> rotary_operators();
std::vector<Operator> norm_operators();
std::vector<Operator> pointwise_operators();
std::vector<Operator> row_moving_operators();  // dropout, gather, scatter
std::vector<Operator> loss_operators();
std::vector<Operator> update_operators();

// The operator with these operands held as BF16. tolerance: where one of them is written.
Operator rounded(Operator op, std::vector<size_t> operands, double tolerance = 0);

// Shorter operands. Outputs start as NaN.
Operand row_in(Array array);
Operand row_out(int64_t rows, int64_t cols);
Operand row_inout(Array array);
Operand whole_in(Array array);
Operand whole_out(int64_t rows, int64_t cols);
Operand whole_inout(Array array);

// 1, odd, around vectors and tiles, large; COPPICE_TEST_LONG=1 adds more.
bool long_tests();
std::vector<Size> pointwise_sizes();

}  // namespace coppice::contract
