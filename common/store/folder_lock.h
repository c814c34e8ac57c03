#pragma once
// Keeps other processes out of a folder, and tells them who holds it: a file OWNER with the process id,
// locked by the system, which lets go of it when the process dies, however it dies. One that has it is waited
// for, two seconds: it may be dying. Thread: any. Errors: kBusy naming the folder and the process id; kInvalid,
// kExhausted where OWNER cannot be written.

#include <string>

namespace coppice {

class FolderLock {
 public:
  explicit FolderLock(const std::string& folder);  // a folder that exists
  ~FolderLock();
  FolderLock(const FolderLock&) = delete;
  FolderLock& operator=(const FolderLock&) = delete;

 private:
  int fd_ = -1;
};

// Whether a process has it now; the process id in OWNER may be another's by now. Only looks. False where
// there is no OWNER that can be read.
bool is_held(const std::string& folder);

}  // namespace coppice
