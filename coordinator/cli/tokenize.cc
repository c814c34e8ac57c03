#include "coordinator/cli/tokenize.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <string_view>

#include "common/base/error.h"
#include "common/io/files.h"
#include "common/text/tokenizer.h"

namespace coppice {
namespace {

constexpr size_t kFlushBytes = 1 << 16;

void flush(std::string& text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    throw failed("stdout: {}", std::strerror(errno));
  }
  text.clear();
}

}  // namespace

int run_tokenize(const std::string& path, const std::string& file, bool special_tokens) {
  const Tokenizer tokenizer = Tokenizer::load(path);
  const std::string text = read_file(file);
  std::string output;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    output += '[';
    const char* separator = "";
    for (const int32_t id :
         tokenizer.encode(std::string_view(text).substr(begin, end - begin), special_tokens)) {
      output += separator;
      output += std::to_string(id);
      separator = ",";
    }
    output += "]\n";
    if (output.size() >= kFlushBytes) flush(output);
    begin = end + 1;
  }
  flush(output);
  return 0;
}

}  // namespace coppice
