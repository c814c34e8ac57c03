#include "common/io/files.h"

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <random>
#include <system_error>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

namespace coppice {
namespace {

namespace fs = std::filesystem;

constexpr size_t kBufferBytes = size_t(1) << 16;

// A descriptor that is closed once.
class Descriptor {
 public:
  explicit Descriptor(int fd = -1) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  int get() const { return fd_; }
  void reset(int fd) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_;
};

void write_all(int fd, std::string_view bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(fd, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) throw system_error(path, "cannot write", errno);
    bytes.remove_prefix(size_t(written));
  }
}

// Some file systems cannot sync a folder or a pipe and say EINVAL; there is nothing to be done about that.
void sync(int fd, const std::string& path) {
  if (::fsync(fd) != 0 && errno != EINVAL) throw system_error(path, "cannot sync", errno);
}

void sync_path(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) throw system_error(path, "cannot open", errno);
  sync(fd.get(), path);
}

std::string parent_of(const std::string& path) {
  const std::string parent = fs::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

// A file or folder beside the final path, that goes away with this object unless it was renamed. While it is
// being filled it is held by a lock; one that nobody holds was left by a process that was killed, and the
// next writer of the same path removes it.
class Temporary {
 public:
  Temporary(const std::string& final_path, bool folder) : folder_(folder) {
    const std::string parent = parent_of(final_path);
    const std::string prefix = "." + fs::path(final_path).filename().string() + ".tmp-";
    remove_abandoned(parent, prefix);
    std::random_device random;
    for (;;) {
      const uint64_t number = uint64_t(random()) << 32 | random();
      path_ = fmt::format("{}/{}{:016x}", parent, prefix, number);
      if (make(final_path)) return;
    }
  }
  ~Temporary() {
    if (path_.empty()) return;
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  int fd() const { return fd_.get(); }
  const std::string& path() const { return path_; }
  void renamed() { path_.clear(); }

 private:
  // False where the name was taken, by another writer or by its sweep for abandoned ones.
  bool make(const std::string& final_path) {
    const bool made = folder_ ? ::mkdir(path_.c_str(), 0777) == 0 : true;
    const int flags = folder_ ? O_RDONLY | O_DIRECTORY : O_WRONLY | O_CREAT | O_EXCL;
    if (made) fd_.reset(::open(path_.c_str(), flags | O_CLOEXEC, 0666));
    if (!made || fd_.get() < 0) {
      const int number = errno;
      if (made && folder_) ::rmdir(path_.c_str());
      path_.clear();
      if (number == EEXIST) return false;
      throw system_error(final_path, folder_ ? "cannot create the folder" : "cannot create", number);
    }
    // On a file system without locks nobody sweeps either.
    if (::flock(fd_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) return false;
    struct stat named, held;
    return ::stat(path_.c_str(), &named) == 0 && ::fstat(fd_.get(), &held) == 0 &&
           named.st_ino == held.st_ino;
  }

  static void remove_abandoned(const std::string& parent, const std::string& prefix) {
    std::error_code ignored;
    std::vector<fs::path> abandoned;
    for (fs::directory_iterator it(parent, ignored), end; !ignored && it != end; it.increment(ignored)) {
      if (it->path().filename().string().starts_with(prefix)) abandoned.push_back(it->path());
    }
    for (const fs::path& path : abandoned) {
      const Descriptor fd(::open(path.c_str(), O_RDONLY | O_NONBLOCK | O_NOFOLLOW | O_CLOEXEC));
      if (fd.get() >= 0 && ::flock(fd.get(), LOCK_EX | LOCK_NB) == 0) fs::remove_all(path, ignored);
    }
  }

  bool folder_;
  std::string path_;
  Descriptor fd_;
};

// Where a write to path really goes: links are followed, so that a link stays one.
std::string resolved(const std::string& path) {
  struct stat status;
  if (::lstat(path.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return path;
  char target[PATH_MAX];
  if (!::realpath(path.c_str(), target)) throw system_error(path, "cannot follow the link", errno);
  return target;
}

// Everything in a folder that is about to be renamed into place, then the folder itself.
void sync_tree(const std::string& folder) {
  std::error_code error;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->is_regular_file() || it->is_directory()) sync_path(it->path().string());
  }
  if (error) throw system_error(folder, "cannot list", error.value());
  sync_path(folder);
}

}  // namespace

Error system_error(const std::string& path, std::string_view action, int number) {
  ErrorCode code = ErrorCode::kFailed;
  switch (number) {
    case ENOENT:
      code = ErrorCode::kNotFound;
      break;
    case EACCES:
    case EPERM:
    case EROFS:
    case EISDIR:
    case ENOTDIR:
    case ELOOP:
    case ENAMETOOLONG:
      code = ErrorCode::kInvalid;
      break;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case ENOMEM:
    case EMFILE:
    case ENFILE:
      code = ErrorCode::kExhausted;
      break;
    default:
      break;
  }
  return Error(code, fmt::format("{}: {}: {}", path, action, std::generic_category().message(number)));
}

std::string read_file(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0) throw system_error(path, "cannot open", errno);
  struct stat status;
  if (::fstat(fd.get(), &status) != 0) throw system_error(path, "cannot read", errno);
  if (S_ISDIR(status.st_mode)) throw system_error(path, "cannot read", EISDIR);
  // The size is a hint: a pipe has none, and a file may grow. One byte more finds the end without another
  // buffer.
  std::string bytes(S_ISREG(status.st_mode) ? size_t(status.st_size) + 1 : kBufferBytes, '\0');
  size_t used = 0;
  for (;;) {
    if (used == bytes.size()) bytes.resize(bytes.size() + std::max(bytes.size() / 2, kBufferBytes));
    const ssize_t got = ::read(fd.get(), bytes.data() + used, bytes.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw system_error(path, "cannot read", errno);
    if (got == 0) break;
    used += size_t(got);
  }
  bytes.resize(used);
  return bytes;
}

void write_file_atomically(const std::string& path, std::string_view bytes) {
  write_file_atomically(path, [&](const Append& append) { append(bytes); });
}

void write_file_atomically(const std::string& path, const std::function<void(const Append& append)>& fill) {
  const std::string target = resolved(path);
  struct stat status;
  const bool exists = ::stat(target.c_str(), &status) == 0;
  if (exists && S_ISDIR(status.st_mode)) throw system_error(path, "cannot write", EISDIR);
  if (exists && !S_ISREG(status.st_mode)) {
    const Descriptor fd(::open(target.c_str(), O_WRONLY | O_CLOEXEC));
    if (fd.get() < 0) throw system_error(path, "cannot open", errno);
    fill([&](std::string_view bytes) { write_all(fd.get(), bytes, path); });
    return;
  }
  Temporary temporary(target, false);
  fill([&](std::string_view bytes) { write_all(temporary.fd(), bytes, path); });
  sync(temporary.fd(), path);
  if (::rename(temporary.path().c_str(), target.c_str()) != 0)
    throw system_error(path, "cannot write", errno);
  temporary.renamed();
  sync_path(parent_of(target));
}

void write_folder_atomically(const std::string& path,
                             const std::function<void(const std::string& folder)>& fill) {
  std::string target = path;
  while (target.size() > 1 && target.back() == '/') target.pop_back();
  const std::string name = fs::path(target).filename().string();
  if (name.empty() || name == "." || name == "..") {
    throw invalid("{}: not the name of a folder that can be replaced", path);
  }
  target = resolved(target);
  struct stat status;
  const bool exists = ::stat(target.c_str(), &status) == 0;
  if (exists && !S_ISDIR(status.st_mode)) throw system_error(path, "cannot create the folder", ENOTDIR);

  Temporary temporary(target, true);
  fill(temporary.path());
  sync_tree(temporary.path());
  if (!exists) {
    if (::rename(temporary.path().c_str(), target.c_str()) != 0)
      throw system_error(path, "cannot create", errno);
    temporary.renamed();
  } else if (::renameat2(AT_FDCWD, temporary.path().c_str(), AT_FDCWD, target.c_str(), RENAME_EXCHANGE) !=
             0) {
    // Where the file system cannot exchange two names there is a moment without the folder.
    if (errno != EINVAL && errno != ENOSYS) throw system_error(path, "cannot replace", errno);
    const Temporary old(target, true);
    if (::rename(target.c_str(), old.path().c_str()) != 0) throw system_error(path, "cannot replace", errno);
    if (::rename(temporary.path().c_str(), target.c_str()) != 0)
      throw system_error(path, "cannot replace", errno);
    temporary.renamed();
  }
  sync_path(parent_of(target));
}

LineWriter::LineWriter(const std::string& path) : path_(path) {
  fd_ = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) throw system_error(path, "cannot create", errno);
}

LineWriter::~LineWriter() {
  try {
    flush();
  } catch (const Error&) {
    // Whoever needs to know that the lines arrived has called flush().
  }
  ::close(fd_);
}

void LineWriter::write(std::string_view line) {
  pending_.append(line);
  pending_ += '\n';
  if (pending_.size() >= kBufferBytes) flush();
}

void LineWriter::flush() {
  // Taken first: after an error the lines are lost rather than written half twice.
  const std::string lines = std::exchange(pending_, {});
  write_all(fd_, lines, path_);
}

}  // namespace coppice
