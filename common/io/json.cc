#include "common/io/json.h"

#include <cstddef>
#include <iterator>
#include <unordered_set>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/io/files.h"

namespace coppice {
namespace {

constexpr size_t kMaxDepth = 256;
constexpr size_t kMaxShownBytes = 120;

// Walks over the text and leaves behind how far the parser has read, which nlohmann's callbacks do not tell.
struct CountingIterator {
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  const char* at;
  const char** reached;
  reference operator*() const { return *at; }
  CountingIterator& operator++() {
    *reached = ++at;
    return *this;
  }
  bool operator==(const CountingIterator& other) const { return at == other.at; }
  bool operator!=(const CountingIterator& other) const { return at != other.at; }
};

// The text of a parser's error without its own numbering and without the last token, which may be as long as
// the file.
std::string reason_of(std::string message) {
  if (const size_t bracket = message.find("] "); bracket != std::string::npos) message.erase(0, bracket + 2);
  if (const size_t last = message.find("; last read: "); last != std::string::npos) {
    const size_t expected = message.rfind("; expected ");
    const std::string tail =
        expected != std::string::npos && expected > last ? message.substr(expected) : std::string();
    message.erase(last);
    message += tail;
  }
  if (message.starts_with("parse error")) {
    if (const size_t colon = message.find(": "); colon != std::string::npos) message.erase(0, colon + 2);
  }
  if (message.starts_with("syntax error")) {
    if (const size_t dash = message.find(" - "); dash != std::string::npos) message.erase(0, dash + 3);
  }
  if (message.size() > 200) message.resize(200);
  for (char& c : message) {
    if (c < ' ' || c > '~') c = '?';
  }
  return message;
}

Error error_at(std::string_view text, size_t position, const std::string& what, int64_t first_line,
               const std::string& reason) {
  int64_t line = first_line;
  size_t line_start = 0;
  for (size_t i = 0; i < position; ++i) {
    if (text[i] == '\n') ++line, line_start = i + 1;
  }
  return invalid("{}:{}:{}: {}", what, line, position - line_start + 1, reason);
}

// Builds the value, with what nlohmann's own builder does not check: keys that stand twice, and depth.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& what, int64_t first_line, const char** reached)
      : text_(text), what_(what), first_line_(first_line), reached_(reached) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(Json()); }
  bool boolean(bool value) override { return add(Json(value)); }
  bool number_integer(number_integer_t value) override { return add(Json(value)); }
  bool number_unsigned(number_unsigned_t value) override { return add(Json(value)); }
  bool number_float(number_float_t value, const string_t&) override { return add(Json(value)); }
  bool string(string_t& value) override { return add(Json(std::move(value))); }
  bool binary(binary_t&) override { return false; }  // JSON text has none

  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& value) override {
    if (!open_.back().keys.insert(value).second) {
      throw error_at_reached("key " + shown(std::string_view(value)) + " stands twice in one object");
    }
    open_.back().key = std::move(value);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) override {
    throw error_at_reached(reason_of(error.what()));
  }

 private:
  struct Open {
    Json* value;
    std::string key;
    std::unordered_set<std::string> keys;
  };

  // A parent's vector does not grow while a child is open, so the pointers in open_ stay good.
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return &parent.back();
    }
    // Appending past the map's own search for the key, which is linear; the key is known to be new.
    auto& members = parent.get_ref<Json::object_t&>();
    using Members = std::vector<Json::object_t::value_type, Json::object_t::allocator_type>;
    return &static_cast<Members&>(members).emplace_back(std::move(open_.back().key), std::move(value)).second;
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  bool open(Json value) {
    if (open_.size() == kMaxDepth) throw error_at_reached("nested deeper than 256 levels");
    open_.push_back({place(std::move(value)), {}, {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Error error_at_reached(const std::string& reason) const {
    const size_t position = size_t(*reached_ - text_.data());
    return error_at(text_, position > 0 ? position - 1 : 0, what_, first_line_, reason);
  }

  std::string_view text_;
  const std::string& what_;
  int64_t first_line_;
  const char** reached_;
  Json root_;
  std::vector<Open> open_;
};

}  // namespace

Json parse_json(std::string_view text, const std::string& what, int64_t first_line) {
  // nlohmann's lexer takes a zero byte for the end of the text and would pass over what follows.
  if (const size_t zero = text.find('\0'); zero != std::string_view::npos) {
    throw error_at(text, zero, what, first_line, "a zero byte");
  }
  const char* reached = text.data();
  Builder builder(text, what, first_line, &reached);
  const CountingIterator begin{text.data(), &reached};
  const CountingIterator end{text.data() + text.size(), &reached};
  if (!Json::sax_parse(begin, end, &builder)) throw invalid("{}: not JSON", what);
  return builder.take();
}

Json read_json_file(const std::string& path) {
  return parse_json(read_file(path), path);
}

std::string shown(const Json& value) {
  // A large value is not written out to be cut: its kind and size say more.
  if (value.is_array() && value.size() > 16) return "a list of " + std::to_string(value.size()) + " values";
  if (value.is_object() && value.size() > 16) return "an object of " + std::to_string(value.size()) + " keys";
  if (value.is_string()) return shown(std::string_view(value.get_ref<const std::string&>()));
  std::string text = value.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() <= kMaxShownBytes) return text;
  size_t cut = kMaxShownBytes;
  while (cut > 0 && (static_cast<unsigned char>(text[cut]) & 0xc0) == 0x80) --cut;  // not inside a character
  return text.substr(0, cut) + "...";
}

std::string shown(std::string_view text) {
  const bool cut = text.size() > kMaxShownBytes;
  size_t length = cut ? kMaxShownBytes : text.size();
  while (cut && length > 0 && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) --length;
  std::string quoted =
      Json(std::string(text.substr(0, length))).dump(-1, ' ', false, Json::error_handler_t::replace);
  return cut ? quoted + "..." : quoted;
}

}  // namespace coppice
