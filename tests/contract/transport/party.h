#pragma once
// One rank's part in a check of a transport. It sends what its pattern says, and examines all that the others
// send: from whom, in which order, and every byte, which a receiver can tell from the header. So the same
// check runs over ranks of one process, taking turns, and over ranks that are processes.

#include <cstdint>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "common/transport/transport.h"

namespace coppice {

struct Letter {
  int to = 0;
  size_t filler_bytes = 0;  // of the header, after what describes the message
  std::vector<size_t> blocks_bytes;
};

struct Pattern {
  const char* name;
  std::vector<Letter> (*letters)(int rank, int size, uint64_t seed);
  size_t at_once;  // sent before the next look at what has arrived
};
const std::vector<Pattern>& patterns();

// What a rank keeps between one check and the next: another may have begun the next already.
struct Inbox {
  std::deque<Message> early;
};

class Party {
 public:
  // check: its number, the same on all ranks. The seed may differ.
  Party(Transport& transport, Inbox& inbox, const Pattern& pattern, uint32_t check, uint64_t seed);

  bool step();                                      // false: nothing left to do
  int live_blocks() const { return live_blocks_; }  // sent from here and not let go of

 private:
  void send_next();
  void examine(const Message& message);

  Transport& transport_;
  Inbox& inbox_;
  uint32_t check_;
  uint64_t seed_;
  size_t at_once_;
  std::vector<Letter> letters_;
  size_t sent_ = 0;
  bool said_last_ = false;
  int live_blocks_ = 0;
  std::map<std::pair<uint32_t, size_t>, const std::byte*> own_;  // blocks sent to this rank itself
  std::vector<uint32_t> sent_to_;                                // by rank
  std::vector<uint32_t> got_from_;
  int lasts_ = 0;
};

}  // namespace coppice
