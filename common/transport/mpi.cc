#include "common/transport/mpi.h"

#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <deque>
#include <list>
#include <thread>
#include <utility>

#include <mpi.h>

#include "common/base/check.h"
#include "common/base/error.h"
#include "common/transport/block_pool.h"
#include "common/transport/envelope.h"

namespace coppice {
namespace {

constexpr int kEnvelopeTag = 1;
constexpr int kBlockTag = 2;
constexpr size_t kMaxPieceBytes = size_t(256) << 20;  // MPI counts in int
constexpr size_t kMaxKeptBytes = size_t(64) << 20;
constexpr int kMaxProbes = 64;  // new messages taken in one go, so that a caller gets its turn
constexpr auto kLastSends = std::chrono::seconds(5);
constexpr auto kPause = std::chrono::microseconds(200);

// Every error is the other rank's as far as this one can tell.
void check_mpi(int status, const char* what, int rank) {
  if (status == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  if (MPI_Error_string(status, text, &length) != MPI_SUCCESS) length = 0;
  throw failed("rank {}: {} failed: MPI says {}", rank, what, std::string(text, size_t(length)));
}

// A message on its way in or out, with all that MPI may still read or write.
struct Transfer {
  Message message;
  std::string envelope;
  bool opened = false;  // of an arriving one: its envelope is here, its blocks are asked for
  std::vector<MPI_Request> requests;
  std::vector<int> expected_bytes;  // of an arriving one, by request

  bool done(const char* what, int rank) {
    std::vector<MPI_Status> statuses(expected_bytes.size());
    int flag = 0;
    check_mpi(MPI_Testall(int(requests.size()), requests.data(), &flag,
                          statuses.empty() ? MPI_STATUSES_IGNORE : statuses.data()),
              what, rank);
    if (!flag) return false;
    for (size_t i = 0; i < statuses.size(); ++i) {
      int bytes = 0;
      check_mpi(MPI_Get_count(&statuses[i], MPI_BYTE, &bytes), what, rank);
      if (bytes != expected_bytes[i])
        throw invalid("rank {} sent {} bytes where {} were announced", rank, bytes, expected_bytes[i]);
    }
    requests.clear();
    expected_bytes.clear();
    return true;
  }
};
using Transfers = std::deque<Transfer>;  // its elements stay where they are

// Calls piece(data, count) for each piece of a block.
template <typename Data, typename Piece>
void for_each_piece(Data* data, size_t bytes, const Piece& piece) {
  for (size_t at = 0; at < bytes; at += kMaxPieceBytes)
    piece(data + at, int(std::min(kMaxPieceBytes, bytes - at)));
}

class MpiTransport : public Transport {
 public:
  MpiTransport(int rank, int size, std::shared_ptr<std::list<Transfers>> abandoned)
      : rank_(rank),
        size_(size),
        outgoing_(size_t(size)),
        incoming_(size_t(size)),
        abandoned_(std::move(abandoned)) {}
  ~MpiTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return size_; }

  void send(int to, Message message) override {
    CHECK(to >= 0 && to < size_);
    message.from = rank_;
    if (to == rank_) {
      ready_.push_back(std::move(message));
      return;
    }
    std::string envelope = make_envelope(message);
    Transfer& transfer = outgoing_[size_t(to)].emplace_back();
    transfer.message = std::move(message);
    transfer.envelope = std::move(envelope);
    start(transfer, transfer.envelope.data(), transfer.envelope.size(), to, kEnvelopeTag);
    for (const auto& block : transfer.message.payload) {
      for_each_piece(block->data(), block->bytes(), [&](const std::byte* data, int count) {
        start(transfer, data, size_t(count), to, kBlockTag);
      });
    }
    reap(to);
  }

  std::optional<Message> receive() override {
    progress();
    if (ready_.empty()) return std::nullopt;
    Message message = std::move(ready_.front());
    ready_.pop_front();
    return message;
  }

  void progress() override {
    for (int to = 0; to < size_; ++to) reap(to);
    accept();
    for (int from = 0; from < size_; ++from) complete(from);
  }

 private:
  void start(Transfer& transfer, const void* data, size_t bytes, int to, int tag) {
    MPI_Request request = MPI_REQUEST_NULL;
    check_mpi(MPI_Isend(data, int(bytes), MPI_BYTE, to, tag, MPI_COMM_WORLD, &request), "sending to it", to);
    transfer.requests.push_back(request);
  }

  // Lets go of what has left. In order: whatever overtakes the first is let go of with it.
  void reap(int to) {
    Transfers& transfers = outgoing_[size_t(to)];
    while (!transfers.empty() && transfers.front().done("sending to it", to)) transfers.pop_front();
  }

  void accept();            // begins to receive what has been announced
  void complete(int from);  // moves what is whole to ready_
  void ask_for_blocks(Transfer& transfer, int from);
  void finish_sends();
  void abandon(Transfers& transfers);

  int rank_;
  int size_;
  std::vector<Transfers> outgoing_;  // by rank
  std::vector<Transfers> incoming_;  // by rank
  std::deque<Message> ready_;
  std::shared_ptr<BlockPool> pool_ = BlockPool::create(kMaxKeptBytes);
  std::shared_ptr<std::list<Transfers>> abandoned_;
};

void MpiTransport::accept() {
  for (int i = 0; i < kMaxProbes; ++i) {
    int flag = 0;
    MPI_Message found = MPI_MESSAGE_NULL;
    MPI_Status status;
    check_mpi(MPI_Improbe(MPI_ANY_SOURCE, kEnvelopeTag, MPI_COMM_WORLD, &flag, &found, &status),
              "looking for messages", rank_);
    if (!flag) return;
    const int from = status.MPI_SOURCE;
    int bytes = 0;
    check_mpi(MPI_Get_count(&status, MPI_BYTE, &bytes), "receiving from it", from);
    if (bytes < 0 || uint64_t(bytes) > kMaxEnvelopeBytes) {
      throw invalid("rank {} sent an envelope of {} bytes; at most {} are accepted", from, bytes,
                    kMaxEnvelopeBytes);
    }
    Transfer& transfer = incoming_[size_t(from)].emplace_back();
    transfer.message.from = from;
    transfer.envelope.resize(size_t(bytes));
    transfer.expected_bytes.push_back(bytes);
    MPI_Request& request = transfer.requests.emplace_back(MPI_REQUEST_NULL);
    check_mpi(MPI_Imrecv(transfer.envelope.data(), bytes, MPI_BYTE, &found, &request), "receiving from it",
              from);
  }
}

void MpiTransport::complete(int from) {
  Transfers& transfers = incoming_[size_t(from)];
  // Blocks are asked for in the order of their envelopes, which is the order in which MPI hands them out.
  for (Transfer& transfer : transfers) {
    if (transfer.opened) continue;
    if (!transfer.done("receiving from it", from)) break;
    ask_for_blocks(transfer, from);
  }
  while (!transfers.empty() && transfers.front().opened &&
         transfers.front().done("receiving from it", from)) {
    ready_.push_back(std::move(transfers.front().message));
    transfers.pop_front();
  }
}

void MpiTransport::ask_for_blocks(Transfer& transfer, int from) {
  const Envelope envelope = open_envelope(transfer.envelope, from);
  transfer.message.kind = envelope.kind;
  transfer.message.header.assign(envelope.header);
  for (const uint64_t bytes : envelope.block_bytes) {
    auto block = pool_->take(bytes);
    for_each_piece(block->fill(), bytes, [&](std::byte* data, int count) {
      transfer.expected_bytes.push_back(count);
      MPI_Request& request = transfer.requests.emplace_back(MPI_REQUEST_NULL);
      check_mpi(MPI_Irecv(data, count, MPI_BYTE, from, kBlockTag, MPI_COMM_WORLD, &request),
                "receiving from it", from);
    });
    transfer.message.payload.push_back(std::move(block));
  }
  transfer.envelope = {};
  transfer.opened = true;
}

// A rank that goes at the same time has sends under way too, so what arrives is taken and dropped.
void MpiTransport::finish_sends() {
  const auto end = std::chrono::steady_clock::now() + kLastSends;
  const auto under_way = [&] {
    return std::any_of(outgoing_.begin(), outgoing_.end(),
                       [](const Transfers& transfers) { return !transfers.empty(); });
  };
  for (progress(); under_way() && std::chrono::steady_clock::now() < end; progress()) {
    ready_.clear();
    std::this_thread::sleep_for(kPause);
  }
}

// MPI may refuse to cancel, and go on using the memory: it is kept for as long as MPI is there.
void MpiTransport::abandon(Transfers& transfers) {
  if (transfers.empty()) return;
  for (Transfer& transfer : transfers) {
    for (MPI_Request& request : transfer.requests) {
      if (request == MPI_REQUEST_NULL) continue;
      MPI_Cancel(&request);
      MPI_Request_free(&request);
    }
  }
  abandoned_->push_back(std::move(transfers));
}

MpiTransport::~MpiTransport() {
  try {
    finish_sends();
  } catch (const Error&) {
    // A rank that is gone takes nothing any more; what was meant for it is dropped below.
  }
  for (Transfers& transfers : outgoing_) abandon(transfers);
  for (Transfers& transfers : incoming_) abandon(transfers);
}

}  // namespace

struct MpiRuntime::State {
  int rank = 0;
  int size = 0;
  bool transport_made = false;
  std::shared_ptr<std::list<Transfers>> abandoned = std::make_shared<std::list<Transfers>>();
};

bool MpiRuntime::launched() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK", "PMI_SIZE"}) {
    if (const char* value = std::getenv(name); value && *value) return true;
  }
  return false;
}

int MpiRuntime::launched_rank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    if (const char* value = std::getenv(name); value && *value) return std::atoi(value);
  }
  return 0;
}

MpiRuntime::MpiRuntime() : state_(std::make_unique<State>()) {
  int provided = MPI_THREAD_SINGLE;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided), "MPI_Init_thread", 0);
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &state_->rank);
  MPI_Comm_size(MPI_COMM_WORLD, &state_->size);
  if (provided < MPI_THREAD_FUNNELED) {
    throw unsupported("the MPI library offers thread level {}; at least MPI_THREAD_FUNNELED ({}) is accepted",
                      provided, int(MPI_THREAD_FUNNELED));
  }
}

// MPI_Finalize waits for all ranks, and burns a core while it waits: so they meet here first, asleep between
// two looks.
MpiRuntime::~MpiRuntime() {
  MPI_Request request = MPI_REQUEST_NULL;
  int met = MPI_Ibarrier(MPI_COMM_WORLD, &request) == MPI_SUCCESS ? 0 : 1;
  while (!met) {
    if (MPI_Test(&request, &met, MPI_STATUS_IGNORE) != MPI_SUCCESS) break;
    if (!met) std::this_thread::sleep_for(kPause);
  }
  MPI_Finalize();
}

int MpiRuntime::rank() const {
  return state_->rank;
}
int MpiRuntime::size() const {
  return state_->size;
}

std::unique_ptr<Transport> MpiRuntime::transport() {
  CHECK(!state_->transport_made);
  state_->transport_made = true;
  return std::make_unique<MpiTransport>(state_->rank, state_->size, state_->abandoned);
}

void MpiRuntime::abort(int exit_status) {
  MPI_Abort(MPI_COMM_WORLD, exit_status);
  std::_Exit(exit_status);
}

void die_with_launcher() {
  const pid_t launcher = getppid();
  if (prctl(PR_SET_PDEATHSIG, SIGKILL) != 0 || getppid() != launcher) {
    // It went between the two looks: nobody will send the signal. (One that went before is missed by
    // MPI_Init.)
    raise(SIGKILL);
  }
}

}  // namespace coppice
