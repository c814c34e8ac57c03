#pragma once
// The one exception of the project: what can go wrong at run time, with the field, file or offset that is to blame in
// its message. Thrown where it is found, caught only at a boundary (a job, a request, a rank's main loop, main).
// A message is one line for the user; it names the value and what would be accepted.

#include <stdexcept>
#include <string>

#include <fmt/format.h>

namespace coppice {

enum class ErrorCode {
  kInvalid,      // the input is wrong: a file, a key, an argument; exit status 2
  kNotFound,     // a named file, job or key does not exist; exit status 2
  kUnsupported,  // understood, but not built: refused by name; exit status 2
  kBusy,         // somebody else holds it
  kExhausted,    // memory, disk or a bound has run out
  kFailed,       // everything else that broke while running
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}
  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

// throw invalid("{}: r is {}; a whole number of at least 1 is accepted", path, r);
template <typename... Args>
Error invalid(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ErrorCode::kInvalid, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Error not_found(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ErrorCode::kNotFound, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Error unsupported(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ErrorCode::kUnsupported, fmt::format(format, std::forward<Args>(args)...));
}
template <typename... Args>
Error failed(fmt::format_string<Args...> format, Args&&... args) {
  return Error(ErrorCode::kFailed, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace coppice
