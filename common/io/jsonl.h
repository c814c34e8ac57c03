#pragma once
// One JSON object a line. Blank lines are passed over; a line that is not an object, longer than the limit or
// not UTF-8 is an error with file and line number. Thread: one a reader. Errors: kNotFound, kInvalid.

#include <cstdint>
#include <functional>
#include <string>

#include "common/io/json.h"

namespace coppice {

// Calls row(object, line number from 1) for each line of the file, in order.
void read_jsonl(const std::string& path, const std::function<void(Json row, int64_t line)>& row,
                size_t max_line_bytes = size_t(64) << 20);

}  // namespace coppice
