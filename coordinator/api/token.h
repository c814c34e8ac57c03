#pragma once
// The secret by which a server knows its clients: 32 random bytes as 64 hexadecimal digits, in a file that
// only its owner may read. No message ever shows one. Thread: any. Errors: kInvalid and the like, naming the
// file or the variable.

#include <optional>
#include <string>
#include <string_view>

namespace coppice {

// The token of folder, from its file token; made (mode 0600, from the system's random numbers) where there is
// none. A file that others may read or that holds no token is refused.
std::string write_token(const std::string& folder);

// A client's: from file, or else from the variable COPPICE_TOKEN.
std::string read_token(const std::optional<std::string>& file);

// In a time that tells nothing of where they differ.
bool same_token(std::string_view expected, std::string_view given);

}  // namespace coppice
