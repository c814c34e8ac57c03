#include "kernels/startup_check.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/error.h"
#include "kernels/ref/ref_backend.h"
#include "tests/contract/backend/device.h"

namespace coppice::contract {
namespace {

// A device as libraries are: rows of long calls are computed another way than rows of short ones.
class BackendThatBlocksByRows : public RefBackend {
 public:
  using RefBackend::RefBackend;
  bool forward = false, backward = false;

  void linear(const FrozenWeight& weight, Matrix x, Matrix bias, Matrix y,
              std::span<const LowRankItem> beside) override {
    RefBackend::linear(weight, x, bias, y, beside);
    if (forward && x.rows > 16) change_last(y);
  }
  void linear_backward(const FrozenWeight& weight, Matrix dy, Matrix dx, bool accumulate,
                       std::span<const LowRankItem> beside) override {
    RefBackend::linear_backward(weight, dy, dx, accumulate, beside);
    if (backward && dy.rows > 16) change_last(dx);
  }

 private:
  static void change_last(Matrix y) {  // by one unit in the last place, at one position of the 259
    float& value = f32_row(y, y.rows - 1)[y.cols - 1];
    value = std::nextafter(value, 1e9f);
  }
};

std::string message_of(BackendThatBlocksByRows& backend, DType compute) {
  try {
    check_equal_bits(backend, compute);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kFailed);
    return error.what();
  }
  return "";
}

TEST(StartupCheckTest, PassesADeviceThatKeepsRowsApart) {
  ThreadPool pool(2);
  BackendThatBlocksByRows backend(pool);
  EXPECT_EQ(message_of(backend, DType::kF32), "");
  EXPECT_EQ(message_of(backend, DType::kBF16), "");
}

TEST(StartupCheckTest, RefusesADeviceWhoseForwardDependsOnTheNumberOfRows) {
  ThreadPool pool(2);
  BackendThatBlocksByRows backend(pool);
  backend.forward = true;
  EXPECT_THAT(message_of(backend, DType::kF32), ::testing::HasSubstr("forward product"));
}

TEST(StartupCheckTest, RefusesADeviceWhoseBackwardDependsOnTheNumberOfRows) {
  ThreadPool pool(2);
  BackendThatBlocksByRows backend(pool);
  backend.backward = true;
  EXPECT_THAT(message_of(backend, DType::kBF16), ::testing::HasSubstr("backward product"));
}

TEST(RegistryTest, NamesTheKnownBackendsWhereOneIsUnknown) {
  ThreadPool pool(1);
  try {
    make_backend("abacus", pool);
    FAIL() << "accepted";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), ::testing::AllOf(::testing::HasSubstr("abacus"), ::testing::HasSubstr("ref")));
  }
}

TEST(RegistryTest, MakesEveryBackendUnderItsName) {
  for (const std::string& name : backend_names()) {
    Device device(name);
    EXPECT_EQ(device->name(), name);
    EXPECT_NE(device->instruction_set(), "");
    // In both, whatever the processor: no test of a device steps aside.
    for (DType compute : {DType::kF32, DType::kBF16}) EXPECT_EQ(device->unsupported(compute), std::nullopt);
    EXPECT_EQ(device->unsupported(device->natural_dtype()), std::nullopt);
    EXPECT_NE(device->unsupported(DType::kF16), std::nullopt);
  }
}

}  // namespace
}  // namespace coppice::contract
