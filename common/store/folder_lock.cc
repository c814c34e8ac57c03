#include "common/store/folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "common/base/error.h"

namespace coppice {
namespace {

// A process that was killed lets go when its memory is given back, which takes a while where it had much.
constexpr auto kPatience = std::chrono::seconds(2);
constexpr auto kPause = std::chrono::milliseconds(10);

bool try_lock(int fd) {
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK || std::chrono::steady_clock::now() > end) return false;
    std::this_thread::sleep_for(kPause);
  }
  return true;
}

Error refused(int fd, const std::string& path, int reason) {
  if (fd >= 0) ::close(fd);
  const bool full = reason == ENOSPC || reason == EDQUOT;
  return Error(
      full ? ErrorCode::kExhausted : ErrorCode::kInvalid,
      fmt::format("{}: cannot be written: {}", path, full ? "the disk is full" : std::strerror(reason)));
}

}  // namespace

FolderLock::FolderLock(const std::string& folder) {
  const std::string path = folder + "/OWNER";
  fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd_ < 0) throw refused(fd_, path, errno);
  if (!try_lock(fd_)) {
    if (errno != EWOULDBLOCK) throw refused(fd_, path, errno);
    char text[32] = {};
    const bool known = ::pread(fd_, text, sizeof text - 1, 0) > 0;
    ::close(fd_);
    throw Error(ErrorCode::kBusy,
                fmt::format("{}: is in use by process {}; stop it first, or use another folder", folder,
                            known ? text : "(unknown)"));
  }
  const std::string pid = std::to_string(::getpid());
  if (::ftruncate(fd_, 0) != 0 || ::pwrite(fd_, pid.data(), pid.size(), 0) != ssize_t(pid.size())) {
    throw refused(fd_, path, errno);
  }
}

FolderLock::~FolderLock() {
  ::close(fd_);
}

// Shared, so that those who look do not see each other; whoever wants the folder meanwhile has patience.
bool is_held(const std::string& folder) {
  const int fd = ::open((folder + "/OWNER").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return false;
  const bool held = ::flock(fd, LOCK_SH | LOCK_NB) != 0 && errno == EWOULDBLOCK;
  ::close(fd);
  return held;
}

}  // namespace coppice
