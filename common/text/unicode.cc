#include "common/text/unicode.h"

#include <algorithm>
#include <array>

#include <unicode/uchar.h>
#include <unicode/utf8.h>

#include <fmt/format.h>

namespace coppice {
namespace {

const AddedCharacters* added(char32_t c) {
  const auto table = added_characters();
  const auto found = std::lower_bound(table.begin(), table.end(), c,
                                      [](const AddedCharacters& a, char32_t c) { return a.last < c; });
  return found != table.end() && found->first <= c ? &*found : nullptr;
}

std::string range_text(const AddedCharacters& range) {
  return fmt::format("\\x{{{:x}}}-\\x{{{:x}}}", uint32_t(range.first), uint32_t(range.last));
}

constexpr std::array<std::string_view, 31> kCategories = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe", "Pi",
    "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "L",  "M",  "N",  "P",  "S",  "Z"};
// Scripts that gained nothing after Unicode 15.0, Han apart.
constexpr std::array<std::string_view, 4> kScripts = {"Han", "Hiragana", "Katakana", "Hangul"};
constexpr std::string_view kHanAdditions = "\\x{2ebf0}-\\x{2ee5d}";

}  // namespace

bool is_ascii(std::string_view text) {
  unsigned char all = 0;
  for (const char c : text) all |= static_cast<unsigned char>(c);
  return all < 0x80;
}

std::string valid_utf8(std::string_view text) {
  if (is_ascii(text)) return std::string(text);
  std::string valid;
  valid.reserve(text.size());
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  const auto size = int64_t(text.size());
  for (int64_t at = 0; at < size;) {
    const int64_t begin = at;
    UChar32 c;
    U8_NEXT(bytes, at, size, c);
    if (c < 0) {
      valid += "\xef\xbf\xbd";
    } else {
      valid.append(text, size_t(begin), size_t(at - begin));
    }
  }
  return valid;
}

char32_t next_char(std::string_view text, size_t& at) {
  UChar32 c;
  const auto* bytes = reinterpret_cast<const uint8_t*>(text.data());
  U8_NEXT_UNSAFE(bytes, at, c);
  return char32_t(c);
}

void append_char(std::string& text, char32_t c) {
  uint8_t bytes[U8_MAX_LENGTH];
  size_t size = 0;
  U8_APPEND_UNSAFE(bytes, size, UChar32(c));
  text.append(reinterpret_cast<const char*>(bytes), size);
}

bool is_white_space(char32_t c) {
  return u_isUWhiteSpace(UChar32(c));
}

bool is_numeric(char32_t c) {
  if (U_GET_GC_MASK(UChar32(c)) & U_GC_N_MASK) return true;
  if (const auto* later = added(c)) return later->category[0] == 'N';
  // Rust's own tables, which alone decide here, are a version ahead of those of its regular expressions.
  return (c >= 0x11de0 && c <= 0x11de9) || (c >= 0x16ff4 && c <= 0x16ff6);
}

bool is_word(char32_t c) {
  if (const auto* later = added(c)) {
    return later->alphabetic || later->category[0] == 'M' || std::string_view(later->category) == "Nd";
  }
  constexpr uint32_t kMask = U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK;
  return u_hasBinaryProperty(UChar32(c), UCHAR_ALPHABETIC) || (U_GET_GC_MASK(UChar32(c)) & kMask) != 0 ||
         c == 0x200c || c == 0x200d;
}

std::string property_set(std::string_view name) {
  const bool category = std::find(kCategories.begin(), kCategories.end(), name) != kCategories.end();
  if (!category && std::find(kScripts.begin(), kScripts.end(), name) == kScripts.end()) return {};
  std::string set = fmt::format("[\\p{{{}}}", name);
  if (name == "Han") set += kHanAdditions;
  if (category) {
    for (const auto& range : added_characters()) {
      if (std::string_view(range.category).starts_with(name)) set += range_text(range);
    }
  }
  return set + "]";
}

std::string word_set() {
  // The last six are a habit of Oniguruma's.
  std::string set = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{b2}\\x{b3}\\x{b9}\\x{bc}-\\x{be}";
  for (const auto& range : added_characters()) {
    const std::string_view category = range.category;
    if (range.alphabetic || category[0] == 'M' || category == "Nd") set += range_text(range);
  }
  return set + "]";
}

std::string escaped_char(char32_t c) {
  return fmt::format("\\x{{{:x}}}", uint32_t(c));
}

}  // namespace coppice
