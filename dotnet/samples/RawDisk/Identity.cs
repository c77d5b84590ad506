// Who the disk is: a GUID in a small file beside the disk's, so that clients know the disk again.
using System;
using System.IO;
using System.Security.Cryptography;
using System.Text;

namespace Userdisk.Samples
{
    internal static class Identity
    {
        // The GUID in FILE.guid, made at the first time. Where none can be made it is derived from the path.
        // Raises IOException if the file is there but has no GUID.
        internal static Guid Of(string path)
        {
            string beside = path + ".guid";
            if (!File.Exists(beside))
            {
                Guid fresh = Guid.NewGuid();
                try
                {
                    Store(beside, fresh);
                    return fresh;
                }
                catch (Exception error) when (error is IOException || error is UnauthorizedAccessException)
                {
                    return Derived(path);
                }
            }
            Guid guid;
            if (!Guid.TryParse(File.ReadAllText(beside).Trim(), out guid) || guid == Guid.Empty)
                throw new IOException(beside + " has no GUID: remove it, and the disk gets a new one");
            return guid;
        }

        // Whole or not at all: another name first. The disk's file is locked, so nobody else does this.
        private static void Store(string path, Guid guid)
        {
            string temporary = path + ".new";
            using (var stream = new FileStream(temporary, FileMode.Create, FileAccess.Write))
            {
                byte[] text = Encoding.ASCII.GetBytes(guid + "\n");
                stream.Write(text, 0, text.Length);
                stream.Flush(true);
            }
            File.Move(temporary, path);
        }

        private static Guid Derived(string path)
        {
            using (SHA256 hash = SHA256.Create())
            {
                byte[] digest = hash.ComputeHash(Encoding.UTF8.GetBytes("userdisk:" + Path.GetFullPath(path)));
                Array.Resize(ref digest, 16);
                digest[7] = (byte)(digest[7] & 0x0F | 0x80); // version 8: made of something else (RFC 9562 5.8)
                digest[8] = (byte)(digest[8] & 0x3F | 0x80);
                return new Guid(digest);
            }
        }
    }
}
