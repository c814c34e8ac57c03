#pragma once
// What the tests of files share: a folder of its own for each test, and the error that a call ends with.

#include <gtest/gtest.h>
#include <stdlib.h>

#include <filesystem>
#include <fstream>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>

#include "common/base/error.h"

namespace coppice {

class TestFolder {
 public:
  explicit TestFolder(const std::filesystem::path& in = std::filesystem::temp_directory_path())
      : path_((in / "coppice-test-XXXXXX").string()) {
    if (::mkdtemp(path_.data()) == nullptr) throw std::runtime_error("cannot make " + path_);
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string file(std::string_view name) const { return path_ + "/" + std::string(name); }
  size_t entries() const {
    size_t count = 0;
    for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(path_)) ++count;
    return count;
  }

 private:
  std::string path_;
};

// The Error that call throws, whose message must be one line of bounded length. A call that throws none fails
// the test.
template <typename Call>
Error error_of(const Call& call) {
  std::optional<Error> error;
  try {
    call();
  } catch (const Error& caught) {
    error = caught;
  }
  if (!error) {
    ADD_FAILURE() << "no Error was thrown";
    return failed("no error");
  }
  const std::string_view message = error->what();
  EXPECT_EQ(message.find('\n'), std::string_view::npos) << message;
  EXPECT_LT(message.size(), 1000u) << message;
  return *error;
}

template <typename Call>
std::string message_of(const Call& call) {
  return error_of(call).what();
}

// Writes a file without syncing: some tests write thousands.
inline void put(const std::string& path, const std::string& bytes) {
  // A new file: cutting an old one makes some file systems sync.
  std::filesystem::remove(path);
  std::ofstream(path, std::ios::binary).write(bytes.data(), std::streamsize(bytes.size()));
}

}  // namespace coppice
