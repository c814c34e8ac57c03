#pragma once
// Characters as the tokenizers of Hugging Face see them. Their regular expressions, their word characters and
// their white space follow Unicode 16, which Debian 12's ICU (Unicode 15.0) does not know in full: a table in
// unicode_additions.cc holds the characters that came after it. Their normalisation forms follow Unicode 9.
// Thread: any. Owner of ICU's character properties.

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace coppice {

// Text with one U+FFFD for each maximal part that is not UTF-8. Everything below expects such text.
std::string valid_utf8(std::string_view text);
bool is_ascii(std::string_view text);
// The character that begins at byte `at`; moves `at` behind it.
char32_t next_char(std::string_view text, size_t& at);
void append_char(std::string& text, char32_t c);
// Bytes of the character whose first byte is `lead`.
inline size_t char_bytes(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

bool is_white_space(char32_t c);
bool is_numeric(char32_t c);  // categories Nd, Nl, No
bool is_word(char32_t c);     // what a single_word token must not touch

// A set expression of ICU's regular expressions, "[...]", for a property's name as in \p{L}: general
// categories and a few scripts. Empty where the name is not supported.
std::string property_set(std::string_view name);
std::string word_set();  // \w of Oniguruma
// One character of a set or a pattern, written so that it can mean nothing else.
std::string escaped_char(char32_t c);

// Characters that Unicode 15.1 and 16.0 added.
struct AddedCharacters {
  char32_t first, last;
  char category[3];
  bool alphabetic;
};
std::span<const AddedCharacters> added_characters();  // ascending

}  // namespace coppice
