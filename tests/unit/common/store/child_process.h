#pragma once
// A program of the tests that runs beside the test, says things line by line, and may be killed. Its own
// program, not a fork: a fork of a process with threads has not their work.

#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <optional>
#include <string>
#include <vector>

namespace coppice {

class ChildProcess {
 public:
  explicit ChildProcess(std::vector<std::string> arguments) {
    int ends[2] = {-1, -1};
    if (::pipe(ends) != 0) ADD_FAILURE() << "no pipe";
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    const int error = ::posix_spawn(&pid_, pointers[0], &actions, nullptr, pointers.data(), environ);
    EXPECT_EQ(error, 0) << arguments[0];
    if (error != 0) pid_ = -1;
    posix_spawn_file_actions_destroy(&actions);
    ::close(ends[1]);
    output_ = ::fdopen(ends[0], "r");
  }
  ~ChildProcess() {
    end(SIGKILL);
    std::fclose(output_);
  }
  ChildProcess(const ChildProcess&) = delete;
  ChildProcess& operator=(const ChildProcess&) = delete;

  pid_t pid() const { return pid_; }

  // The next line, without its newline; nothing when the child has ended. A line cut by a kill is none.
  std::optional<std::string> line() {
    std::string text;
    for (int c = std::fgetc(output_); c != EOF; c = std::fgetc(output_)) {
      if (c == '\n') return text;
      text += char(c);
    }
    return std::nullopt;
  }

  // Sends the signal (0: none) and waits; the exit status, or 128 + the signal that ended it.
  int end(int signal_number) {
    if (pid_ < 0) return ended_with_;
    if (signal_number != 0) ::kill(pid_, signal_number);
    int status = 0;
    ::waitpid(pid_, &status, 0);
    pid_ = -1;
    ended_with_ = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
    return ended_with_;
  }

 private:
  pid_t pid_ = -1;
  int ended_with_ = -1;
  std::FILE* output_ = nullptr;
};

}  // namespace coppice
