#pragma once
// How ranks exchange messages: a small header and, beside it, blocks of raw bytes that are moved, not copied, where both ends share
// memory. Messages between two ranks arrive in the order sent. send never waits: what may be in flight is bounded above, by the
// coordinator's credits. Loopback joins ranks of one process; MPI joins processes.
//
// Thread: the compute thread of the rank. Errors: kFailed naming the rank that is gone.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace coppice {

// A block of bytes that travels. What it owns is known to who made it and to a receiver in the same process.
class Payload {
 public:
  virtual ~Payload() = default;
  virtual const std::byte* data() const = 0;  // host memory
  virtual size_t bytes() const = 0;
};

class BytesPayload : public Payload {
 public:
  explicit BytesPayload(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  const std::byte* data() const override { return bytes_.data(); }
  size_t bytes() const override { return bytes_.size(); }

 private:
  std::vector<std::byte> bytes_;
};

struct Message {
  int from = 0;
  uint32_t kind = 0;
  std::string header;
  std::vector<std::unique_ptr<Payload>> payload;
};

class Transport {
 public:
  virtual ~Transport() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void send(int to, Message message) = 0;  // sets from; to may be this rank
  virtual std::optional<Message> receive() = 0;    // the next that has arrived, or nothing
  virtual void progress() {}  // lets what is under way go on: called between operators of long work
};

// The ranks of one process: endpoint i is rank i. All on one thread.
std::vector<std::unique_ptr<Transport>> make_loopback(int size);

}  // namespace coppice
