// How an operation ended, as the 32 status bytes of a response carry it.
namespace Userdisk
{
    /// <summary>How an operation ended. It begins as GOOD; an operation that fails sets sense data.</summary>
    public struct StorageUnitStatus
    {
        /// <summary>The bit of <see cref="Flags"/> that says that <see cref="Information"/> has a value.</summary>
        public const uint InformationValid = 0x100;

        /// <summary>One of <see cref="Userdisk.ScsiStatus"/>.</summary>
        public byte ScsiStatus;
        /// <summary>One of <see cref="Userdisk.SenseKey"/>.</summary>
        public byte SenseKey;
        /// <summary>Additional sense code: one of <see cref="Userdisk.Asc"/>, or any other of SPC.</summary>
        public byte ASC;
        /// <summary>Additional sense code qualifier.</summary>
        public byte ASCQ;
        /// <summary>For errors of the medium: the first block that failed.</summary>
        public ulong Information;
        /// <summary><see cref="InformationValid"/>, or 0.</summary>
        public uint Flags;

        /// <summary>Fail with this sense key and code, qualifier 0.</summary>
        public void SetSense(byte senseKey, byte asc)
        {
            this = default(StorageUnitStatus);
            ScsiStatus = Userdisk.ScsiStatus.CheckCondition;
            SenseKey = senseKey;
            ASC = asc;
        }

        /// <summary>Fail with this sense key and code, at this block.</summary>
        public void SetSense(byte senseKey, byte asc, ulong information)
        {
            SetSense(senseKey, asc);
            Information = information;
            Flags = InformationValid;
        }

        internal bool Failed
        {
            get { return ScsiStatus != Userdisk.ScsiStatus.Good; }
        }
    }
}
