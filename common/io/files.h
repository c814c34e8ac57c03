#pragma once
// Files that are whole or not there. Thread: any, one object a thread. Errors, each naming the path and what
// the system said: kNotFound (no such file or folder), kInvalid (not permitted, a folder where a file
// belongs, or the reverse), kExhausted (the disk is full), kFailed (anything else).

#include <functional>
#include <string>
#include <string_view>

#include "common/base/error.h"

namespace coppice {

std::string read_file(const std::string& path);

// Writes to a temporary file beside path, syncs it, renames it over path, syncs the folder. On an error
// nothing is left; after a kill the temporary file (".NAME.tmp-...") may stay, and the next write of path
// removes it. A link is followed; a device or a pipe is written directly.
void write_file_atomically(const std::string& path, std::string_view bytes);

// The same in pieces, for what is too large to stand in memory twice: fill gets a function that appends.
using Append = std::function<void(std::string_view bytes)>;
void write_file_atomically(const std::string& path, const std::function<void(const Append& append)>& fill);

// A folder that appears whole: fill writes into a temporary folder beside path; then its files are synced and
// it takes path's place (an old folder there is replaced and removed). If fill throws, the temporary folder
// is removed and path is untouched.
void write_folder_atomically(const std::string& path,
                             const std::function<void(const std::string& folder)>& fill);

// Lines appended to a file (metrics); flush() hands them to the system.
class LineWriter {
 public:
  explicit LineWriter(const std::string& path);  // truncates
  ~LineWriter();
  LineWriter(const LineWriter&) = delete;
  LineWriter& operator=(const LineWriter&) = delete;
  void write(std::string_view line);  // without its newline
  void flush();

 private:
  std::string path_;
  int fd_ = -1;
  std::string pending_;
};

// What a failed call of the system is to the user: "PATH: cannot write: No space left on device". number: its
// errno.
Error system_error(const std::string& path, std::string_view action, int number);

}  // namespace coppice
