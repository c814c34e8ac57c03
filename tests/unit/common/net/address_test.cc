#include "common/net/address.h"

#include <gtest/gtest.h>

#include "common/base/error.h"

namespace coppice {
namespace {

TEST(AddressTest, ReadsNamesAndNumbers) {
  EXPECT_EQ(parse_address("127.0.0.1:7420").host, "127.0.0.1");
  EXPECT_EQ(parse_address("127.0.0.1:7420").port, 7420);
  EXPECT_EQ(parse_address("a-host.example:1").host, "a-host.example");
  EXPECT_EQ(parse_address("[::1]:65535").host, "::1");
  EXPECT_EQ(parse_address("[::1]:65535").port, 65535);
  EXPECT_EQ(parse_address("localhost:0", true).port, 0);
}

TEST(AddressTest, WritesWhatItReads) {
  for (const char* text : {"127.0.0.1:7420", "[::1]:7420", "name:1"}) {
    EXPECT_EQ(address_text(parse_address(text)), text);
  }
}

TEST(AddressTest, RefusesTheRest) {
  for (const char* text : {"", ":", ":7420", "host", "host:", "host:0", "host:65536", "host:-1", "host:7420x",
                           "host: 7420", "::1:7420", "[]:7420", "ho\nst:7420", "host:99999999999999999999"}) {
    try {
      parse_address(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalid);
      EXPECT_NE(std::string(error.what()).find("HOST:PORT"), std::string::npos) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace coppice
