#pragma once
// "HOST:PORT" as users write it: a name, an IPv4 address, or an IPv6 address in brackets. Thread: any.
// Errors: kInvalid naming the text and what is accepted.

#include <cstdint>
#include <string>

namespace coppice {

struct Address {
  std::string host;  // without brackets
  uint16_t port = 0;
};

// 0 as a port is accepted where the system is to choose one.
Address parse_address(const std::string& text, bool zero_port = false);
std::string address_text(const Address& address);

}  // namespace coppice
