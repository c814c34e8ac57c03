#include "coordinator/device.h"

#include <gmock/gmock.h>

#include "common/base/error.h"
#include "kernels/ref/ref_backend.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

using ::testing::HasSubstr;

template <DType kNatural>
class BackendOf : public RefBackend {
 public:
  using RefBackend::RefBackend;
  DType natural_dtype() const override { return kNatural; }
};

ThreadPool& one_thread() {
  static ThreadPool pool(1);
  return pool;
}

template <DType kNatural>
Device device(const std::string& dtype) {
  ComputeOptions options{"ref", dtype, 1, nullptr};
  options.wrap = [](std::unique_ptr<Backend>) -> std::unique_ptr<Backend> {
    return std::make_unique<BackendOf<kNatural>>(one_thread());
  };
  return Device(options);
}

TEST(DeviceTest, AutoIsTheBackendsNaturalDtype) {
  EXPECT_EQ(device<DType::kF32>("auto").dtype_name(), "float32");
  EXPECT_EQ(device<DType::kBF16>("auto").dtype_name(), "bfloat16");
}

TEST(DeviceTest, WhatIsAskedForIsTaken) {
  EXPECT_EQ(device<DType::kF32>("bfloat16").dtype_name(), "bfloat16");
  EXPECT_EQ(device<DType::kBF16>("float32").dtype_name(), "float32");
}

TEST(DeviceTest, AnUnknownDtypeIsRefusedWithThoseThatAreKnown) {
  const Error error = error_of([] { device<DType::kF32>("float16"); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_THAT(error.what(), HasSubstr("--dtype is float16; auto, float32 and bfloat16 are accepted"));
}

TEST(DeviceTest, AnUnknownDeviceIsRefusedByTheOptionWithThoseThatAreKnown) {
  const Error error = error_of([] { Device device({"gpu", "auto", 1, nullptr}); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_THAT(error.what(), HasSubstr("--device is gpu; ref, cpu are accepted"));
}

}  // namespace
}  // namespace coppice
