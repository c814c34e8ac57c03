#include "common/net/address.h"

#include <charconv>

#include "common/base/error.h"
#include "common/net/frame.h"

namespace coppice {
namespace {

Error refused(const std::string& text) {
  return invalid("{}: HOST:PORT is accepted, such as 127.0.0.1:7420 or [::1]:7420", one_line(text, 80));
}

}  // namespace

Address parse_address(const std::string& text, bool zero_port) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) throw refused(text);
  Address address;
  address.host = text.substr(0, colon);
  if (address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  } else if (address.host.find(':') != std::string::npos) {
    throw refused(text);
  }
  if (address.host.empty() || one_line(address.host) != address.host) throw refused(text);
  const char *begin = text.data() + colon + 1, *end = text.data() + text.size();
  const auto [stopped, problem] = std::from_chars(begin, end, address.port);
  if (problem != std::errc() || stopped != end || (address.port == 0 && !zero_port)) throw refused(text);
  return address;
}

std::string address_text(const Address& address) {
  const bool six = address.host.find(':') != std::string::npos;
  return fmt::format(fmt::runtime(six ? "[{}]:{}" : "{}:{}"), address.host, address.port);
}

}  // namespace coppice
