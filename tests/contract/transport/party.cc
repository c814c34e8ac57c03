#include "tests/contract/transport/party.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sstream>

namespace coppice {
namespace {

constexpr uint32_t kLetter = 1000;  // kinds: of a check's messages, its number is in the header
constexpr uint32_t kLast = 1001;

uint64_t mixed(uint64_t x) {
  x += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

class Draw {
 public:
  explicit Draw(uint64_t seed) : state_(seed) {}
  size_t below(size_t end) { return mixed(state_++) % end; }

 private:
  uint64_t state_;
};

uint64_t block_key(uint64_t seed, int from, int to, uint32_t number, size_t block) {
  return mixed(mixed(mixed(seed + uint64_t(from)) + uint64_t(to)) + number) + block;
}

uint64_t word(uint64_t key, size_t i) {
  return (key + i) * 0x9e3779b97f4a7c15;
}

void fill(std::byte* data, size_t bytes, uint64_t key) {
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t value = word(key, at / 8);
    std::memcpy(data + at, &value, std::min<size_t>(8, bytes - at));
  }
}

bool is_filled(const std::byte* data, size_t bytes, uint64_t key) {
  for (size_t at = 0; at < bytes; at += 8) {
    const uint64_t value = word(key, at / 8);
    if (std::memcmp(data + at, &value, std::min<size_t>(8, bytes - at)) != 0) return false;
  }
  return true;
}

// Tells whether it is still held.
class CountedPayload : public BytesPayload {
 public:
  CountedPayload(std::vector<std::byte> bytes, int& live) : BytesPayload(std::move(bytes)), live_(live) {
    ++live_;
  }
  ~CountedPayload() override { --live_; }

 private:
  int& live_;
};

// What the header of a letter says, before its filler.
struct Description {
  uint32_t check = 0, number = 0;  // of those from this sender to this receiver
  uint64_t seed = 0;
  std::vector<size_t> blocks_bytes;

  std::string text(size_t filler_bytes) const {
    std::ostringstream out;
    out << check << ' ' << number << ' ' << seed << ' ' << blocks_bytes.size();
    for (const size_t bytes : blocks_bytes) out << ' ' << bytes;
    return out.str() + '\n' + std::string(filler_bytes, char('a' + number % 26));
  }
};

Description described(const std::string& header) {
  Description description;
  size_t blocks = 0;
  std::istringstream in(header);
  in >> description.check >> description.number >> description.seed >> blocks;
  description.blocks_bytes.resize(blocks);
  for (size_t& bytes : description.blocks_bytes) in >> bytes;
  EXPECT_TRUE(in) << "a header came out of shape: " << header.substr(0, 80);
  return description;
}

std::vector<Letter> every_size(int, int size, uint64_t) {
  std::vector<Letter> letters;
  for (int to = 0; to < size; ++to) {
    letters.push_back({to, 0, {}});
    for (const size_t bytes :
         {size_t(0), size_t(1), size_t(3), size_t(4095), size_t(4097), (size_t(1) << 20) + 3}) {
      letters.push_back({to, bytes % 5000, {bytes}});
      letters.push_back({to, 1, {bytes, 0, bytes, 1}});
    }
  }
  return letters;
}

std::vector<Letter> many_blocks(int, int size, uint64_t seed) {
  Draw draw(seed);
  std::vector<Letter> letters;
  for (int to = 0; to < size; ++to) {
    Letter letter{to, 7, {}};
    for (int i = 0; i < 300; ++i) letter.blocks_bytes.push_back(draw.below(9000));
    letters.push_back(letter);
  }
  return letters;
}

std::vector<Letter> storm(int, int size, uint64_t seed) {
  Draw draw(seed);
  std::vector<Letter> letters;
  for (int i = 0; i < 1500 * size; ++i) {
    Letter letter{int(draw.below(size_t(size))), draw.below(60), {}};
    if (draw.below(4) == 0) letter.blocks_bytes.push_back(draw.below(200));
    letters.push_back(letter);
  }
  return letters;
}

// More than any eager limit, from all to all, before anybody receives.
std::vector<Letter> large_at_once(int, int size, uint64_t) {
  std::vector<Letter> letters;
  for (int i = 0; i < 3; ++i) {
    for (int to = 0; to < size; ++to) letters.push_back({to, 100000, {size_t(3) << 20, 17}});
  }
  return letters;
}

std::vector<Letter> anything(int, int size, uint64_t seed) {
  Draw draw(seed);
  std::vector<Letter> letters;
  for (int i = 0; i < 60 * size; ++i) {
    Letter letter{int(draw.below(size_t(size))), draw.below(size_t(1) << draw.below(16)), {}};
    for (size_t blocks = draw.below(6); blocks > 0; --blocks)
      letter.blocks_bytes.push_back(draw.below(size_t(1) << draw.below(20)));
    letters.push_back(letter);
  }
  return letters;
}

// Above what one MPI message may carry, so that a block comes in pieces.
std::vector<Letter> one_in_pieces(int rank, int size, uint64_t) {
  if (rank != 0 || size != 2) return {};
  return {{1, 0, {(size_t(256) << 20) + 5, 3}}, {1, 0, {9}}};
}

std::vector<Letter> nothing(int, int, uint64_t) {
  return {};
}

}  // namespace

const std::vector<Pattern>& patterns() {
  static const std::vector<Pattern> all = {
      {"Nothing", nothing, 1},   {"EverySize", every_size, 3},      {"ManyBlocks", many_blocks, 1},
      {"Storm", storm, 100000},  {"StormWithReceiving", storm, 5},  {"LargeAtOnce", large_at_once, 1000},
      {"Anything", anything, 4}, {"OneInPieces", one_in_pieces, 2},
  };
  return all;
}

Party::Party(Transport& transport, Inbox& inbox, const Pattern& pattern, uint32_t check, uint64_t seed)
    : transport_(transport),
      inbox_(inbox),
      check_(check),
      seed_(mixed(seed + uint64_t(transport.rank()))),
      at_once_(pattern.at_once),
      letters_(pattern.letters(transport.rank(), transport.size(), seed_)),
      sent_to_(size_t(transport.size()), 0),
      got_from_(size_t(transport.size()), 0) {}

void Party::send_next() {
  const Letter& letter = letters_[sent_++];
  const uint32_t number = sent_to_[size_t(letter.to)]++;
  const Description description{check_, number, seed_, letter.blocks_bytes};
  Message message;
  message.from = 99;  // for send to put right
  message.kind = kLetter;
  message.header = description.text(letter.filler_bytes);
  for (size_t i = 0; i < letter.blocks_bytes.size(); ++i) {
    std::vector<std::byte> bytes(letter.blocks_bytes[i]);
    fill(bytes.data(), bytes.size(), block_key(seed_, transport_.rank(), letter.to, number, i));
    if (letter.to == transport_.rank()) own_[{number, i}] = bytes.data();
    message.payload.push_back(std::make_unique<CountedPayload>(std::move(bytes), live_blocks_));
  }
  transport_.send(letter.to, std::move(message));
}

void Party::examine(const Message& message) {
  ASSERT_TRUE(message.from >= 0 && message.from < transport_.size()) << message.from;
  const Description description = described(message.header);
  ASSERT_EQ(description.check, check_);
  ASSERT_EQ(description.number, got_from_[size_t(message.from)])
      << "from rank " << message.from << ": out of order";
  if (message.kind == kLast) {
    ++lasts_;
    return;
  }
  ASSERT_EQ(message.kind, kLetter);
  ++got_from_[size_t(message.from)];
  const size_t filler = message.header.size() - message.header.find('\n') - 1;
  ASSERT_EQ(message.header, description.text(filler));
  ASSERT_EQ(message.payload.size(), description.blocks_bytes.size());
  for (size_t i = 0; i < message.payload.size(); ++i) {
    const Payload& block = *message.payload[i];
    ASSERT_EQ(block.bytes(), description.blocks_bytes[i]);
    ASSERT_TRUE(
        is_filled(block.data(), block.bytes(),
                  block_key(description.seed, message.from, transport_.rank(), description.number, i)))
        << "block " << i << " of message " << description.number << " from rank " << message.from
        << " changed on its way";
    if (message.from == transport_.rank()) {
      ASSERT_EQ(block.data(), (own_[{description.number, i}])) << "copied";
    }
  }
}

bool Party::step() {
  for (size_t i = 0; i < at_once_ && sent_ < letters_.size(); ++i) send_next();
  if (sent_ == letters_.size() && !said_last_) {
    for (int to = 0; to < transport_.size(); ++to) {
      Message last;
      last.kind = kLast;
      last.header = Description{check_, sent_to_[size_t(to)], seed_, {}}.text(0);
      transport_.send(to, std::move(last));
    }
    said_last_ = true;
  }
  if (!inbox_.early.empty() && described(inbox_.early.front().header).check == check_) {
    examine(inbox_.early.front());
    inbox_.early.pop_front();
  } else if (auto message = transport_.receive()) {
    if (described(message->header).check > check_) {
      inbox_.early.push_back(std::move(*message));
    } else {
      examine(*message);
    }
  }
  return !said_last_ || lasts_ < transport_.size() || live_blocks_ > 0;
}

}  // namespace coppice
