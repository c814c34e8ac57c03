#include "common/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace coppice {

void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "coppice: internal error at %s:%d: %s does not hold\n", file, line, condition);
  std::abort();
}

}  // namespace coppice
