#pragma once
// A file whose times tell it from what is written next: the clock that files get them from has ticked.

#include <chrono>
#include <fstream>
#include <string>
#include <thread>

namespace coppice {

inline void write_settled(const std::string& path, const std::string& text) {
  std::ofstream(path) << text;  // in place
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
}

}  // namespace coppice
