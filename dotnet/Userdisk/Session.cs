// One client: its messages in, its answers out. An answer belongs to the session that the request came in.
using System;
using System.Collections.Generic;
using System.IO;
using System.Net.Sockets;
using System.Threading;

namespace Userdisk
{
    internal sealed class Session
    {
        private const int ReceiveBuffer = 64 << 10;

        private readonly StorageUnitParameters disk;
        private readonly WorkQueue queue;
        private readonly Log log;
        private readonly Socket socket;
        private readonly BufferedStream input;
        private readonly byte[] prefix = new byte[Wire.LengthBytes];
        private readonly object sending = new object();
        private readonly HashSet<ulong> hints = new HashSet<ulong>(); // under way; also the lock of `underWay`
        private int underWay;
        private readonly object closing = new object();
        private bool closed;
        private volatile bool gone; // nobody hears answers any more

        internal Session(Socket socket, StorageUnitParameters disk, WorkQueue queue, Log log)
        {
            this.socket = socket;
            this.disk = disk;
            this.queue = queue;
            this.log = log;
            input = new BufferedStream(new NetworkStream(socket, false), ReceiveBuffer);
        }

        // What was received but not begun need not be done: nobody has been told that it was.
        internal bool Gone
        {
            get { return gone; }
        }

        // From the greeting until nothing of this client is under way. No exception gets out.
        internal void Run()
        {
            try
            {
                Greet();
                while (Receive())
                {
                }
            }
            catch (Exception error) when (error is IOException || error is SocketException)
            {
                gone = true; // broken off by the client, or by Abandon
            }
            // The next client must not meet what this one's requests still do.
            lock (hints)
                while (underWay != 0)
                    Monitor.Wait(hints);
            lock (closing)
            {
                closed = true;
                socket.Close();
            }
        }

        // End it from another thread: wakes whoever waits for the client.
        internal void Abandon()
        {
            gone = true;
            lock (closing)
                if (!closed)
                    Libc.Shutdown(socket);
        }

        // The request has ended, or was refused.
        internal void Answer(Slot slot, StorageUnitStatus status)
        {
            lock (hints)
                hints.Remove(slot.Request.Hint); // the client may use it again as soon as it has the answer
            Send(slot, status);
            Finish(slot);
        }

        // On a dispatcher thread: nobody hears the answer.
        internal void Finish(Slot slot)
        {
            queue.Return(slot);
            lock (hints)
            {
                underWay--;
                Monitor.PulseAll(hints);
            }
        }

        private void Greet()
        {
            byte[] parameters = disk.Encode();
            var message = new byte[Wire.LengthBytes + parameters.Length];
            Wire.PutU32(message, 0, (uint)parameters.Length);
            parameters.CopyTo(message, Wire.LengthBytes);
            SendAll(message, message.Length, null, 0);
        }

        // One message. False: the client has said its last, or what cannot be a message.
        private bool Receive()
        {
            if (!Fill(prefix, Wire.LengthBytes, true))
                return false;
            uint length = Wire.GetU32(prefix, 0);
            if (length < Wire.HeaderLength || length - Wire.HeaderLength > disk.MaxTransferLength)
            {
                log.Error("a client was ended: it sent a message of " + length + " bytes; "
                    + Wire.HeaderLength + " to " + (Wire.HeaderLength + (ulong)disk.MaxTransferLength) + " can be");
                return false;
            }
            int payload = (int)length - Wire.HeaderLength;
            Slot slot = queue.Rent();
            slot.Session = this;
            lock (hints)
                underWay++;
            try
            {
                Fill(slot.Header, Wire.HeaderLength, false);
                Fill(slot.Buffer, payload, false);
            }
            catch
            {
                Finish(slot);
                throw;
            }
            return Begin(slot, payload);
        }

        // Refuses the request or hands it on. False: nobody could tell whose the answer is.
        private bool Begin(Slot slot, int payload)
        {
            slot.Request = Request.Decode(slot.Header);
            StorageUnitStatus status = RequestCheck.Check(disk, slot.Request, payload);
            bool ours;
            lock (hints)
                ours = slot.Request.Hint == 0 || hints.Add(slot.Request.Hint);
            if (!ours)
            {
                log.Error("a client was ended: it used the hint " + slot.Request.Hint + " of a request under way");
                Finish(slot);
                Abandon();
                return false;
            }
            if (!status.Failed)
            {
                queue.Add(slot);
                return true;
            }
            log.Started(slot.Request);
            log.Ended(slot.Request, status);
            Answer(slot, status);
            return true;
        }

        private void Send(Slot slot, StorageUnitStatus status)
        {
            int payload = 0;
            if (slot.Request.Kind == Kind.Read && !status.Failed)
                payload = (int)(slot.Request.Count * disk.BlockLength);
            Wire.EncodeResponse(slot.Header, slot.Request, status, payload);
            try
            {
                SendAll(slot.Header, slot.Header.Length, slot.Buffer, payload);
            }
            catch (SocketException)
            {
                Abandon();
            }
        }

        private void SendAll(byte[] header, int headerLength, byte[] payload, int payloadLength)
        {
            var pieces = new List<ArraySegment<byte>>(2) { new ArraySegment<byte>(header, 0, headerLength) };
            if (payloadLength != 0)
                pieces.Add(new ArraySegment<byte>(payload, 0, payloadLength));
            lock (sending)
                while (pieces.Count != 0)
                {
                    int sent = socket.Send(pieces);
                    while (pieces.Count != 0 && sent >= pieces[0].Count)
                    {
                        sent -= pieces[0].Count;
                        pieces.RemoveAt(0);
                    }
                    if (pieces.Count != 0)
                        pieces[0] = new ArraySegment<byte>(pieces[0].Array, pieces[0].Offset + sent,
                            pieces[0].Count - sent);
                }
        }

        // False, if mayEnd: the client ended instead of sending the first byte. Raises EndOfStreamException.
        private bool Fill(byte[] bytes, int length, bool mayEnd)
        {
            for (int have = 0; have < length;)
            {
                int count = input.Read(bytes, have, length - have);
                if (count == 0)
                {
                    if (have == 0 && mayEnd)
                        return false;
                    throw new EndOfStreamException();
                }
                have += count;
            }
            return true;
        }
    }
}
