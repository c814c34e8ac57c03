#include "coordinator/api/token.h"

#include <fcntl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdlib>

#include "common/base/error.h"
#include "common/io/files.h"

namespace coppice {
namespace {

constexpr size_t kRandomBytes = 32;
constexpr size_t kMaxFileBytes = 4096;

class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

std::string random_token() {
  std::array<unsigned char, kRandomBytes> bytes;
  size_t have = 0;
  while (have < bytes.size()) {
    const ssize_t count = ::getrandom(bytes.data() + have, bytes.size() - have, 0);
    if (count < 0 && errno != EINTR) throw failed("the system gives no random numbers for a token");
    if (count > 0) have += size_t(count);
  }
  std::string token;
  for (unsigned char byte : bytes) {
    token += "0123456789abcdef"[byte >> 4];
    token += "0123456789abcdef"[byte & 15];
  }
  return token;
}

// The token that text is, around which there may be blanks; where names its source.
std::string checked(std::string text, const std::string& where) {
  while (!text.empty() && std::string_view(" \t\r\n").find(text.back()) != std::string_view::npos)
    text.pop_back();
  const bool hex = text.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (text.size() != 2 * kRandomBytes || !hex) {
    throw invalid(
        "{}: holds no token; {} hexadecimal digits, as coppice serve writes to the file token of its "
        "folder, are accepted",
        where, 2 * kRandomBytes);
  }
  return text;
}

// Nothing where there is no such file.
std::optional<std::string> token_in(const std::string& path, bool must_be_private) {
  const Descriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (file.get() < 0 && errno == ENOENT) return std::nullopt;
  if (file.get() < 0) throw system_error(path, "cannot read", errno);
  struct stat status {};
  if (::fstat(file.get(), &status) != 0) throw system_error(path, "cannot read", errno);
  if (must_be_private && (status.st_mode & 077) != 0) {
    throw invalid(
        "{}: others may read or write it (mode {:o}); chmod 600 makes it a secret, removing it makes a new "
        "one",
        path, status.st_mode & 07777);
  }
  std::string text(kMaxFileBytes, '\0');
  size_t have = 0;
  while (have < text.size()) {
    const ssize_t count = ::read(file.get(), text.data() + have, text.size() - have);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) throw system_error(path, "cannot read", errno);
    if (count == 0) break;
    have += size_t(count);
  }
  text.resize(have);
  return checked(std::move(text), path);
}

// Whole or not there, and never readable by others: not even while it is written.
void write_private(const std::string& path, std::string_view bytes) {
  const std::string temporary = path + ".tmp";
  ::unlink(temporary.c_str());
  const Descriptor file(::open(temporary.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (file.get() < 0) throw system_error(path, "cannot write", errno);
  if (::fchmod(file.get(), 0600) != 0 ||
      ::write(file.get(), bytes.data(), bytes.size()) != ssize_t(bytes.size()) || ::fsync(file.get()) != 0 ||
      ::rename(temporary.c_str(), path.c_str()) != 0) {
    const int number = errno;
    ::unlink(temporary.c_str());
    throw system_error(path, "cannot write", number);
  }
}

}  // namespace

std::string write_token(const std::string& folder) {
  const std::string path = folder + "/token";
  if (auto token = token_in(path, true)) return *std::move(token);
  std::string token = random_token();
  write_private(path, token + "\n");
  return token;
}

std::string read_token(const std::optional<std::string>& file) {
  if (file) {
    auto token = token_in(*file, false);
    if (!token) throw not_found("--token-file {}: there is no such file", *file);
    return *std::move(token);
  }
  const char* variable = std::getenv("COPPICE_TOKEN");
  if (!variable || *variable == '\0') {
    throw invalid(
        "the server's token is missing; --token-file FILE, with the file token of the server's folder, or "
        "COPPICE_TOKEN gives it");
  }
  return checked(variable, "COPPICE_TOKEN");
}

bool same_token(std::string_view expected, std::string_view given) {
  unsigned different = expected.size() != given.size();
  for (size_t i = 0; i < given.size(); ++i) {
    different |= unsigned(given[i] ^ expected[i % expected.size()]);
  }
  return different == 0;
}

}  // namespace coppice
