// What the tests of the store need a process of its own for: to hold a store, to run out of disk, to have no
// permission. Prints lines; exit status 77 where the machine does not allow the experiment.
//
//   store_child hold FOLDER            opens it, prints "held", stays
//   store_child full FOLDER            on a small file system mounted there: writes until an error, then
//   reads store_child limited FOLDER         the same, with a limit on the size of files store_child
//   unprivileged FOLDER    opens it as a user who may write nowhere

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <string>

#include "common/base/error.h"
#include "common/store/kv_store.h"

namespace {

using namespace coppice;

constexpr int kNotPossible = 77;

void say(const std::string& line) {
  std::printf("%s\n", line.c_str());
  std::fflush(stdout);
}

void say(const Error& error) {
  say(fmt::format("error {} {}", int(error.code()), error.what()));
}

// Says the error, then "acknowledged N" and "read M".
int write_until_error(const std::string& folder) {
  int acknowledged = 0;
  try {
    const auto store = open_rocksdb(folder);
    for (; acknowledged < 1000; ++acknowledged) {
      Batch batch;
      batch.put(fmt::format("{:04}", acknowledged), std::string(100 << 10, 'x'));
      store->write(batch, true);
    }
  } catch (const Error& error) {
    say(error);
  }
  int read = 0;
  open_rocksdb_readonly(folder)->scan("", [&](std::string_view, std::string_view value) {
    read += value.size() == 100 << 10;
    return true;
  });
  say(fmt::format("acknowledged {}", acknowledged));
  say(fmt::format("read {}", read));
  return 0;
}

int hold(const std::string& folder) {
  const auto store = open_rocksdb(folder);
  say("held");
  for (;;) ::pause();
}

int full(const std::string& folder) {
  if (::unshare(CLONE_NEWNS) != 0) return kNotPossible;
  if (::mount("none", "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0) return kNotPossible;
  if (::mount("tmpfs", folder.c_str(), "tmpfs", 0, "size=4m") != 0) return kNotPossible;
  return write_until_error(folder + "/store");
}

int limited(const std::string& folder) {
  ::signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{250 << 10, 250 << 10};
  if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return kNotPossible;
  return write_until_error(folder + "/store");
}

int unprivileged(const std::string& folder) {
  if (::geteuid() == 0 && ::seteuid(65534) != 0) return kNotPossible;
  const auto store = open_rocksdb(folder);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  const std::string mode = argv[1], folder = argv[2];
  try {
    if (mode == "hold") return hold(folder);
    if (mode == "full") return full(folder);
    if (mode == "limited") return limited(folder);
    if (mode == "unprivileged") return unprivileged(folder);
  } catch (const Error& error) {
    say(error);
    return 0;
  }
  return 2;
}
