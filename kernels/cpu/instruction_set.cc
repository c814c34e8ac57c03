#include "kernels/cpu/instruction_set.h"

#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include <hwy/targets.h>

#include "common/base/error.h"

namespace coppice {
namespace {

enum class Level { kNone, kAvx2, kAvx512, kAvx512Bf16, kAmx };
constexpr std::array<std::string_view, 5> kNames = {"none", "avx2", "avx512", "avx512_bf16", "amx"};

// Bits of CPUID, leaf 7: Intel's manual, volume 2, table 3-8.
bool processor_has_avx512_bf16() {
  constexpr unsigned kAvx512Bf16 = 1u << 5;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax & kAvx512Bf16) != 0;
}
bool processor_has_amx() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) != 0 && (edx & kAmxBf16) != 0 &&
         (edx & kAmxTile) != 0;
}

// Linux keeps the 8 KiB of tiles only for processes that have asked (Documentation/arch/x86/xstate.rst).
bool system_lets_use_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

Level wanted() {
  const char* const name = std::getenv("COPPICE_MAX_ISA");
  if (name == nullptr || *name == '\0') return Level::kAmx;
  const auto known = std::find(kNames.begin() + 1, kNames.end(), std::string_view(name));
  if (known == kNames.end())
    throw invalid("COPPICE_MAX_ISA is '{}'; avx2, avx512, avx512_bf16 and amx are accepted", name);
  return Level(known - kNames.begin());
}

// Highway is asked once: SupportedTargets() itself chooses among all that the processor has, so whoever
// called it again would undo what is chosen here for good.
Level chosen() {
  const Level most = wanted();
  if (most < Level::kAvx512) hwy::DisableTargets(HWY_AVX3 | HWY_AVX3_DL);
  const int64_t targets = hwy::SupportedTargets();
  hwy::GetChosenTarget().Update(targets);
  if ((targets & HWY_AVX3) == 0) return (targets & HWY_AVX2) != 0 ? Level::kAvx2 : Level::kNone;
  if (most < Level::kAvx512Bf16 || !processor_has_avx512_bf16()) return Level::kAvx512;
  if (most < Level::kAmx || !processor_has_amx() || !system_lets_use_tiles()) return Level::kAvx512Bf16;
  return Level::kAmx;
}

Level level() {
  static const Level level = chosen();
  return level;
}

}  // namespace

std::string cpu_instruction_set() {
  return std::string(kNames[size_t(level())]);
}

bool has_amx() {
  return level() == Level::kAmx;
}

bool has_bf16_products() {
  return level() >= Level::kAvx512Bf16;
}

bool has_avx2() {
  return level() >= Level::kAvx2;
}

}  // namespace coppice
