// The kernels that run are those that the instruction set names, whatever has been asked before.

#include <string>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tests/unit/kernels/cpu/instruction_set_test.cc"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace coppice {
namespace HWY_NAMESPACE {

std::string name() {
  return HWY_TARGET == HWY_AVX3 ? "avx512" : HWY_TARGET == HWY_AVX2 ? "avx2" : "another";
}

}  // namespace HWY_NAMESPACE
}  // namespace coppice
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include <gtest/gtest.h>

#include "common/base/thread_pool.h"
#include "kernels/cpu/cpu_backend.h"

namespace coppice {
namespace {

HWY_EXPORT(name);

TEST(InstructionSetTest, TheKernelsThatRunAreThoseItNames) {
  ThreadPool pool(1);
  for (int backends = 0; backends < 2; ++backends) {
    const std::string named = make_cpu_backend(pool)->instruction_set();
    EXPECT_EQ(HWY_DYNAMIC_DISPATCH(name)(), named == "avx2" ? "avx2" : "avx512");
  }
}

}  // namespace
}  // namespace coppice
#endif
