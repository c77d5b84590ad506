// SCSI status codes, sense keys and additional sense codes (SAM-6 5.3, SPC-5 4.4), as far as a unit needs them.
namespace Userdisk
{
    /// <summary>How a SCSI command ended.</summary>
    public static class ScsiStatus
    {
        /// <summary>Done.</summary>
        public const byte Good = 0x00;
        /// <summary>Not done; the sense data say why.</summary>
        public const byte CheckCondition = 0x02;
        /// <summary>The condition that was asked for is met.</summary>
        public const byte ConditionMet = 0x04;
        /// <summary>Not now.</summary>
        public const byte Busy = 0x08;
        /// <summary>A reservation is in the way.</summary>
        public const byte ReservationConflict = 0x18;
        /// <summary>Too many commands at once.</summary>
        public const byte TaskSetFull = 0x28;
    }

    /// <summary>What kind of error it was.</summary>
    public static class SenseKey
    {
        /// <summary>No error.</summary>
        public const byte NoSense = 0x0;
        /// <summary>Done, with some effort.</summary>
        public const byte RecoveredError = 0x1;
        /// <summary>The unit cannot be used now.</summary>
        public const byte NotReady = 0x2;
        /// <summary>The medium is bad.</summary>
        public const byte MediumError = 0x3;
        /// <summary>The device is bad.</summary>
        public const byte HardwareError = 0x4;
        /// <summary>The request is wrong.</summary>
        public const byte IllegalRequest = 0x5;
        /// <summary>Something has changed.</summary>
        public const byte UnitAttention = 0x6;
        /// <summary>The data are protected.</summary>
        public const byte DataProtect = 0x7;
        /// <summary>Given up by the device; may be tried again.</summary>
        public const byte AbortedCommand = 0xB;
    }

    /// <summary>Additional sense codes, all with qualifier 0.</summary>
    public static class Asc
    {
        /// <summary>Nothing to add.</summary>
        public const byte None = 0x00;
        /// <summary>Write error.</summary>
        public const byte WriteError = 0x0C;
        /// <summary>Unrecovered read error.</summary>
        public const byte UnrecoveredReadError = 0x11;
        /// <summary>Parameter list length error.</summary>
        public const byte ParameterListLengthError = 0x1A;
        /// <summary>Invalid command operation code.</summary>
        public const byte InvalidCommand = 0x20;
        /// <summary>Logical block address out of range.</summary>
        public const byte LbaOutOfRange = 0x21;
        /// <summary>Invalid field in the command.</summary>
        public const byte InvalidFieldInCdb = 0x24;
        /// <summary>Invalid field in the parameter list.</summary>
        public const byte InvalidFieldInParameterList = 0x26;
        /// <summary>Write protected.</summary>
        public const byte WriteProtected = 0x27;
    }
}
