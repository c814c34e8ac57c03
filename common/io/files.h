#pragma once
// Files that are whole or not there. Thread: any, one object a thread. Errors: kNotFound, kFailed, kExhausted (disk full),
// naming the path and what the system said.

#include <functional>
#include <string>
#include <string_view>

namespace coppice {

std::string read_file(const std::string& path);

// Writes to a temporary file beside path, syncs it, renames it over path, syncs the folder. On an error nothing is left.
void write_file_atomically(const std::string& path, std::string_view bytes);

// A folder that appears whole: fill writes into a temporary folder beside path; then its files are synced and it takes path's
// place (an old folder there is replaced and removed). If fill throws, the temporary folder is removed and path is untouched.
void write_folder_atomically(const std::string& path, const std::function<void(const std::string& folder)>& fill);

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

}  // namespace coppice
