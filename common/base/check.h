#pragma once
// CHECK(condition) ends the program when the programmer was wrong; it is on in release builds too. Bytes that come from
// outside never reach a CHECK: they are an Error (error.h).

namespace coppice {

[[noreturn]] void check_failed(const char* file, int line, const char* condition);

}  // namespace coppice

#define CHECK(condition) \
  (static_cast<bool>(condition) ? void(0) : ::coppice::check_failed(__FILE__, __LINE__, #condition))
