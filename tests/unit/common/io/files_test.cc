#include "common/io/files.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <functional>
#include <thread>
#include <vector>

#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

TEST(FilesTest, ReadsWhatWasWritten) {
  const TestFolder folder;
  const std::string path = folder.file("a");
  for (const size_t size : {0, 1, 65535, 65536, 65537, 1000000}) {
    std::string bytes(size, '\0');
    for (size_t i = 0; i < size; ++i) bytes[i] = char(i * 31);
    write_file_atomically(path, bytes);
    EXPECT_EQ(read_file(path), bytes);
  }
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_NE(read_file("/proc/self/status").find("VmRSS"), std::string::npos)
      << "a file that says it has no bytes";
}

TEST(FilesTest, ReadingNamesThePath) {
  const TestFolder folder;
  const Error missing = error_of([&] { read_file(folder.file("none")); });
  EXPECT_EQ(missing.code(), ErrorCode::kNotFound);
  EXPECT_EQ(missing.what(), folder.file("none") + ": cannot open: No such file or directory");
  EXPECT_EQ(message_of([&] { read_file(folder.path()); }), folder.path() + ": cannot read: Is a directory");
  write_file_atomically(folder.file("file"), "x");
  EXPECT_EQ(error_of([&] { read_file(folder.file("file/below")); }).code(), ErrorCode::kInvalid);
}

TEST(FilesTest, WritingIntoAMissingFolderNamesThePath) {
  const TestFolder folder;
  const Error error = error_of([&] { write_file_atomically(folder.file("none/a"), "x"); });
  EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  EXPECT_THAT(error.what(), StartsWith(folder.file("none/a") + ": "));
  EXPECT_EQ(error_of([&] { write_file_atomically(folder.path(), "x"); }).code(), ErrorCode::kInvalid);
}

TEST(FilesTest, WritingIntoAFolderThatIsNotOursNamesThePath) {
  if (::geteuid() == 0) {
    // Root may write everywhere but where nobody can.
    const Error error = error_of([] { write_file_atomically("/proc/coppice-test", "x"); });
    EXPECT_THAT(error.what(), StartsWith("/proc/coppice-test: "));
    return;
  }
  const TestFolder folder;
  ::chmod(folder.path().c_str(), 0500);
  const Error error = error_of([&] { write_file_atomically(folder.file("a"), "x"); });
  EXPECT_EQ(error.code(), ErrorCode::kInvalid);
  EXPECT_EQ(error.what(), folder.file("a") + ": cannot create: Permission denied");
}

// Runs body in a child whose files cannot grow beyond a limit, the nearest to a full disk that needs no
// rights.
int run_with_file_limit(rlim_t bytes, const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, bytes};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    ::_exit(body());
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST(FilesTest, AFullDiskIsExhaustedAndLeavesNothing) {
  const TestFolder folder;
  write_file_atomically(folder.file("a"), "old");
  const int result = run_with_file_limit(1000, [&] {
    try {
      write_file_atomically(folder.file("a"), std::string(5000, 'x'));
    } catch (const Error& error) {
      return error.code() == ErrorCode::kExhausted ? 0 : 1;
    }
    return 2;
  });
  EXPECT_EQ(result, 0);
  EXPECT_EQ(read_file(folder.file("a")), "old");
  EXPECT_EQ(folder.entries(), 1u);

  const Error error = error_of([] { write_file_atomically("/dev/full", "x"); });
  EXPECT_EQ(error.code(), ErrorCode::kExhausted);
  EXPECT_STREQ(error.what(), "/dev/full: cannot write: No space left on device");
}

TEST(FilesTest, AFillThatThrowsLeavesNothing) {
  const TestFolder folder;
  write_file_atomically(folder.file("a"), "old");
  EXPECT_THROW(write_file_atomically(folder.file("a"),
                                     [](const Append& append) {
                                       append("new");
                                       throw invalid("enough");
                                     }),
               Error);
  EXPECT_EQ(read_file(folder.file("a")), "old");
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(FilesTest, WritesThroughALinkAndIntoADevice) {
  const TestFolder folder;
  write_file_atomically(folder.file("target"), "old");
  fs::create_symlink("target", folder.file("link"));
  write_file_atomically(folder.file("link"), "new");
  EXPECT_TRUE(fs::is_symlink(folder.file("link")));
  EXPECT_EQ(read_file(folder.file("target")), "new");
  write_file_atomically("/dev/null", "x");
  EXPECT_TRUE(fs::is_character_file("/dev/null"));
}

TEST(FilesTest, RemovesWhatAKilledWriterLeft) {
  const TestFolder folder;
  const std::string path = folder.file("a");
  const pid_t child = ::fork();
  if (child == 0) {
    write_file_atomically(path, [](const Append& append) {
      append("half");
      ::_exit(0);  // as after a kill: no destructor runs
    });
  }
  ::waitpid(child, nullptr, 0);
  EXPECT_EQ(folder.entries(), 1u) << "the child left its temporary file";
  EXPECT_FALSE(fs::exists(path));
  write_file_atomically(path, "whole");
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_EQ(read_file(path), "whole");
}

TEST(FilesTest, WritersOfOneNameDoNotMix) {
  const TestFolder folder;
  const std::string path = folder.file("a");
  std::vector<std::thread> writers;
  for (char letter : {'a', 'b', 'c', 'd'}) {
    writers.emplace_back([&, letter] {
      for (int i = 0; i < 10; ++i) write_file_atomically(path, std::string(10000, letter));
    });
  }
  for (auto& writer : writers) writer.join();
  const std::string bytes = read_file(path);
  EXPECT_EQ(bytes, std::string(10000, bytes[0]));
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(FilesTest, AFolderAppearsWholeAndReplacesTheOldOne) {
  const TestFolder folder;
  const std::string path = folder.file("out");
  for (const char* name : {"first", "second"}) {
    write_folder_atomically(path + "/", [&](const std::string& temporary) {
      EXPECT_NE(temporary, path);
      fs::create_directory(temporary + "/sub");
      write_file_atomically(temporary + "/sub/" + name, name);
    });
    EXPECT_EQ(read_file(path + "/sub/" + name), name);
    EXPECT_EQ(folder.entries(), 1u);
  }
  EXPECT_FALSE(fs::exists(path + "/sub/first"));
}

TEST(FilesTest, AFolderWhoseFillThrowsLeavesTheOldOne) {
  const TestFolder folder;
  const std::string path = folder.file("out");
  const auto fail = [&](const std::string& temporary) {
    write_file_atomically(temporary + "/half", "x");
    throw invalid("enough");
  };
  EXPECT_THROW(write_folder_atomically(path, fail), Error);
  EXPECT_EQ(folder.entries(), 0u);
  write_folder_atomically(path,
                          [](const std::string& temporary) { write_file_atomically(temporary + "/a", "x"); });
  EXPECT_THROW(write_folder_atomically(path, fail), Error);
  EXPECT_EQ(folder.entries(), 1u);
  EXPECT_EQ(read_file(path + "/a"), "x");
}

TEST(FilesTest, AFolderTakesNoFilesPlaceAndNoNamelessOne) {
  const TestFolder folder;
  write_file_atomically(folder.file("file"), "x");
  const auto nothing = [](const std::string&) {};
  EXPECT_EQ(error_of([&] { write_folder_atomically(folder.file("file"), nothing); }).code(),
            ErrorCode::kInvalid);
  EXPECT_EQ(error_of([&] { write_folder_atomically(folder.file("none/out"), nothing); }).code(),
            ErrorCode::kNotFound);
  for (const char* path : {"", "/", ".", "..", "a/.."}) {
    EXPECT_EQ(error_of([&] { write_folder_atomically(path, nothing); }).code(), ErrorCode::kInvalid) << path;
  }
  EXPECT_EQ(read_file(folder.file("file")), "x");
}

TEST(LineWriterTest, WritesLinesWhenFlushed) {
  const TestFolder folder;
  const std::string path = folder.file("metrics.jsonl");
  write_file_atomically(path, "what stood there before\n");
  {
    LineWriter writer(path);
    EXPECT_EQ(read_file(path), "");
    writer.write("{\"step\":1}");
    writer.flush();
    EXPECT_EQ(read_file(path), "{\"step\":1}\n");
    writer.write("");
    writer.write(std::string(200000, 'x'));
    writer.write("end");
  }
  EXPECT_EQ(read_file(path), "{\"step\":1}\n\n" + std::string(200000, 'x') + "\nend\n");
}

TEST(LineWriterTest, NamesThePath) {
  EXPECT_EQ(error_of([] { LineWriter("/none/here"); }).code(), ErrorCode::kNotFound);
  LineWriter full("/dev/full");
  full.write("x");
  const Error error = error_of([&] { full.flush(); });
  EXPECT_EQ(error.code(), ErrorCode::kExhausted);
  EXPECT_STREQ(error.what(), "/dev/full: cannot write: No space left on device");
}

}  // namespace
}  // namespace coppice
