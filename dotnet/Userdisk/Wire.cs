// Messages of the pipe protocol as bytes, little-endian on every machine: request, response, unmap descriptor.
namespace Userdisk
{
    internal enum Kind : byte
    {
        Reserved = 0,
        Read = 1,
        Write = 2,
        Flush = 3,
        Unmap = 4,
    }

    internal struct Request
    {
        internal ulong Hint;
        internal Kind Kind;
        internal ulong BlockAddress;
        internal uint Count; // blocks, or descriptors of an Unmap
        internal bool Flush; // of a Read or Write

        // Reserved fields are not looked at: clients leave in them what was in their memory.
        internal static Request Decode(byte[] message)
        {
            var request = new Request { Hint = Wire.GetU64(message, 0), Kind = (Kind)message[8] };
            if (request.Kind == Kind.Unmap)
            {
                request.Count = Wire.GetU32(message, 16);
                return request;
            }
            request.BlockAddress = Wire.GetU64(message, 16);
            request.Count = Wire.GetU32(message, 24);
            request.Flush = request.Kind != Kind.Flush && (message[28] & 1) != 0;
            return request;
        }
    }

    internal static class Wire
    {
        internal const int LengthBytes = 4; // in front of each message
        internal const int HeaderLength = 48; // of a request and a response
        internal const int DescriptorLength = 16;

        // A response with the length of the whole message in front.
        internal static void EncodeResponse(byte[] bytes, Request request, StorageUnitStatus status, int payload)
        {
            System.Array.Clear(bytes, 0, LengthBytes + HeaderLength);
            PutU32(bytes, 0, (uint)(HeaderLength + payload));
            PutU64(bytes, 4, request.Hint);
            bytes[12] = (byte)request.Kind;
            bytes[20] = status.ScsiStatus;
            bytes[21] = status.SenseKey;
            bytes[22] = status.ASC;
            bytes[23] = status.ASCQ;
            PutU64(bytes, 28, status.Information);
            PutU32(bytes, 48, status.Flags);
        }

        internal static UnmapDescriptor[] DecodeDescriptors(byte[] payload, uint count)
        {
            var descriptors = new UnmapDescriptor[count];
            for (int i = 0; i < descriptors.Length; i++)
            {
                descriptors[i].BlockAddress = GetU64(payload, i * DescriptorLength);
                descriptors[i].BlockCount = GetU32(payload, i * DescriptorLength + 8);
            }
            return descriptors;
        }

        internal static uint GetU32(byte[] bytes, int at)
        {
            return bytes[at] | (uint)bytes[at + 1] << 8 | (uint)bytes[at + 2] << 16 | (uint)bytes[at + 3] << 24;
        }

        internal static ulong GetU64(byte[] bytes, int at)
        {
            return GetU32(bytes, at) | (ulong)GetU32(bytes, at + 4) << 32;
        }

        internal static void PutU32(byte[] bytes, int at, uint value)
        {
            for (int i = 0; i < 4; i++)
                bytes[at + i] = (byte)(value >> 8 * i);
        }

        internal static void PutU64(byte[] bytes, int at, ulong value)
        {
            PutU32(bytes, at, (uint)value);
            PutU32(bytes, at + 4, (uint)(value >> 32));
        }
    }
}
