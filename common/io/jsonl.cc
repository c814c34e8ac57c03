#include "common/io/jsonl.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <vector>

#include "common/base/error.h"
#include "common/io/files.h"

namespace coppice {

void read_jsonl(const std::string& path, const std::function<void(Json row, int64_t line)>& row,
                size_t max_line_bytes) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "rbe"), std::fclose);
  if (!file) throw system_error(path, "cannot open", errno);
  std::vector<char> buffer(size_t(1) << 16);
  std::string line;
  int64_t number = 1;

  const auto take_line = [&] {
    if (line.find_first_not_of(" \t\r") != std::string::npos) {
      Json object = parse_json(line, path, number);
      if (!object.is_object()) {
        throw invalid("{}:{}: the line is {}; a JSON object is accepted", path, number, shown(object));
      }
      row(std::move(object), number);
    }
    line.clear();
    ++number;
  };
  const auto append = [&](const char* begin, const char* end) {
    if (line.size() + size_t(end - begin) > max_line_bytes) {
      throw invalid("{}:{}: the line is longer than {} bytes", path, number, max_line_bytes);
    }
    line.append(begin, end);
  };

  for (;;) {
    const size_t got = std::fread(buffer.data(), 1, buffer.size(), file.get());
    if (got == 0) break;
    const char *at = buffer.data(), *const end = at + got;
    while (const void* newline = std::memchr(at, '\n', size_t(end - at))) {
      const char* stop = static_cast<const char*>(newline);
      append(at, stop);
      take_line();
      at = stop + 1;
    }
    append(at, end);
  }
  if (std::ferror(file.get())) throw system_error(path, "cannot read", errno);
  if (!line.empty()) take_line();
}

}  // namespace coppice
