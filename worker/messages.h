#pragma once
// Between the plain structs of the house and the protobuf headers that cross ranks. Bytes from another rank
// are checked here: what does not fit throws kInvalid. Thread: any.

#include <string>
#include <utility>
#include <vector>

#include "common/base/error.h"
#include "common/transport/transport.h"
#include "proto/cluster.pb.h"
#include "proto/message_kind.pb.h"
#include "proto/pack.pb.h"
#include "proto/params.pb.h"
#include "worker/stage.h"

namespace coppice {

// A message with its header; payload is added by the caller.
template <typename Header>
Message make_message(proto::MessageKind kind, const Header& header) {
  Message message;
  message.kind = uint32_t(kind);
  message.header = header.SerializeAsString();
  return message;
}
template <typename Header>
Header read_header(const Message& message) {
  Header header;
  if (!header.ParseFromString(message.header)) {
    throw invalid("message of kind {} from rank {}: its header cannot be read", message.kind, message.from);
  }
  return header;
}

// A pack as a stage gets it; tokens and targets are empty on stages that do not need them.
struct PackPlan {
  Pack pack;
  std::vector<bool> ends_step;     // by segment
  std::vector<bool> adapter_here;  // by segment: tensors of its job live on this stage
  PackTokens tokens;
  PackTargets targets;
};
proto::PackPlan to_proto(const PackPlan& plan);
PackPlan from_proto(const proto::PackPlan& plan);

// The values of a tensor that travels. A receiver in the same process takes them over.
class TensorPayload : public Payload {
 public:
  explicit TensorPayload(Tensor tensor) : tensor_(std::move(tensor)) {}
  std::vector<float> release() { return std::move(tensor_.values); }
  const std::byte* data() const override { return reinterpret_cast<const std::byte*>(tensor_.values.data()); }
  size_t bytes() const override { return tensor_.values.size() * sizeof(float); }

 private:
  Tensor tensor_;
};

// Tensors as header entries and one payload block each. What get_tensors gives has left the message where it
// was made in this process.
void put_tensors(std::vector<NumberedTensor> tensors, proto::AdapterTensors& header, Message& message);
std::vector<NumberedTensor> get_tensors(const proto::AdapterTensors& header, const Message& message);
// The same where they lie, for as long as the message does.
std::vector<NumberedView> view_tensors(const proto::AdapterTensors& header, const Message& message);

}  // namespace coppice
