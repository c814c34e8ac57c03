#include "coordinator/api/token.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "common/io/files.h"
#include "tests/unit/common/io/testing.h"

namespace coppice {
namespace {

TEST(TokenTest, IsMadeOnceAndKept) {
  const TestFolder folder, other;
  const std::string token = write_token(folder.path());
  EXPECT_EQ(token.size(), 64u);
  EXPECT_EQ(token.find_first_not_of("0123456789abcdef"), std::string::npos);
  EXPECT_EQ(write_token(folder.path()), token);
  EXPECT_EQ(read_token(folder.file("token")), token);
  EXPECT_NE(write_token(other.path()), token);
  EXPECT_EQ(folder.entries(), 1u);
}

TEST(TokenTest, OnlyItsOwnerMayReadIt) {
  const TestFolder folder;
  const mode_t before = ::umask(0);
  write_token(folder.path());
  ::umask(before);
  struct stat status {};
  ASSERT_EQ(::stat(folder.file("token").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777, 0600u);
  ASSERT_EQ(::chmod(folder.file("token").c_str(), 0640), 0);
  EXPECT_NE(message_of([&] { write_token(folder.path()); }).find("mode 640"), std::string::npos);
}

TEST(TokenTest, AFileThatHoldsNoneIsRefusedAndNotShown) {
  const TestFolder folder;
  for (const std::string& text : {std::string(), std::string("secret"), std::string(63, 'a'),
                                  std::string(65, 'a'), std::string(64, 'G'), std::string(10000, 'a')}) {
    write_file_atomically(folder.file("token"), text);
    ASSERT_EQ(::chmod(folder.file("token").c_str(), 0600), 0);
    for (const std::string& message : {message_of([&] { write_token(folder.path()); }),
                                       message_of([&] { read_token(folder.file("token")); })}) {
      EXPECT_NE(message.find(folder.file("token")), std::string::npos) << message;
      EXPECT_EQ(message.find("secret"), std::string::npos) << message;
    }
  }
  EXPECT_EQ(error_of([&] { read_token(folder.file("none")); }).code(), ErrorCode::kNotFound);
  error_of([&] { read_token(folder.path()); });
  error_of([&] { write_token(folder.file("no-folder")); });
}

TEST(TokenTest, TheVariableStandsInForAFile) {
  ::unsetenv("COPPICE_TOKEN");
  const std::string missing = message_of([] { read_token(std::nullopt); });
  EXPECT_NE(missing.find("--token-file"), std::string::npos);
  EXPECT_NE(missing.find("COPPICE_TOKEN"), std::string::npos);
  ::setenv("COPPICE_TOKEN", std::string(64, 'a').c_str(), 1);
  EXPECT_EQ(read_token(std::nullopt), std::string(64, 'a'));
  ::setenv("COPPICE_TOKEN", "nonsense", 1);
  EXPECT_EQ(message_of([] { read_token(std::nullopt); }).find("nonsense"), std::string::npos);
  ::unsetenv("COPPICE_TOKEN");
}

TEST(TokenTest, OnlyTheSameIsTheSame) {
  EXPECT_TRUE(same_token("abcd", "abcd"));
  for (const char* other : {"", "a", "abc", "abce", "bbcd", "abcdabcd", "abcde"})
    EXPECT_FALSE(same_token("abcd", other));
}

}  // namespace
}  // namespace coppice
